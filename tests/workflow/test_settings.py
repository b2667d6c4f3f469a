"""What each job is told: what its result depends on, and nothing else. A key without a row in the table fails."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from osgap.prior.config import SUPERVISIONS, Supervision
from osgap.workflow.config import Config, deep_merge, load_config, validate
from osgap.workflow.pipeline import Pipeline
from osgap.workflow.reference import ANY, Key, keys
from osgap.workflow.settings import own_sequences
from osgap.workflow.stages import STAGES

OWN, OTHER, EXPERIMENT = "201", "202", "wide"
"""Test people with and without an entry; an experiment."""
WEIGHTS = {"path": "data/weights.pth", "sha256": "0" * 8}

BASE: dict[str, Any] = {
    "subjects": {
        "train": ["101", "102", "103"],
        "test": [OWN, OTHER],
        "entries": {
            OWN: {
                "participant": 7,
                "sequences": ["EMO-1-shout+laugh", "EXP-2-eyes"],
                "tracking": "data/tracking",
                "source": {"sequence": "EXP-2-eyes", "timestep": 3, "camera": "222200036"},
                "driver": "102",
                "corrections": ["centimetres"],
            }
        },
    },
    "flame": {"assets": {"model": "data/model.pkl", "masks": "data/masks.pkl", "template": "data/template.obj"}},
    "synthetic": {},
    "prior": {"weights": WEIGHTS, "vgg": WEIGHTS, "refiner": {}, "backbone": WEIGHTS},
    "evaluation": {"lpips": {"alex": WEIGHTS, "vgg": WEIGHTS}},
    "experiments": {EXPERIMENT: {"oneshot": {"steps": 9}}},
}
"""Every section is there, and every key of a person's entry."""


def told(config: Config, subject: str = OTHER) -> dict[str, str]:
    """The settings of one job of each kind, as the rules ask for them."""
    pipeline = Pipeline(config)
    drawn = ("calibrate", "oneshot", "figure", "video")
    jobs = {stage: pipeline.settings(stage, subject) for stage in STAGES if stage not in drawn}
    jobs |= {name: pipeline.settings("oneshot", subject, supervision=name) for name in SUPERVISIONS}
    jobs["person_figure"] = pipeline.settings("figure", subject, keys=["report.expressions"])
    jobs["cross_figure"] = pipeline.settings("figure", subject, keys=["evaluation.cross_frames"])
    jobs["overview"] = pipeline.shown_settings("figure", *config.subjects.test, keys=["report.expressions"])
    jobs["video"] = pipeline.shown_settings("video", subject)
    return jobs


def differing(before: Config, after: Config, subject: str = OTHER) -> set[str]:
    """The jobs that run again."""
    old, new = told(before, subject), told(after, subject)
    return {job for job in old if old[job] != new[job]}


# the table -----------------------------------------------------------------------------------------------

EVERY_JOB = (
    "synthetic-head synthetic-person download import fit adopt-avatar adopt-maps bake train one_shot few_shot "
    "all_frames evaluate tables ablation person_figure cross_figure overview video"
)

TABLE: dict[str, str] = {
    EVERY_JOB: "seed",
    "": """
        results accelerator upgrades subjects.train subjects.test subjects.entries.ID.tracking
        subjects.entries.ID.driver
        flame.assets.model flame.assets.masks flame.assets.template capture.url capture.connections capture.tracking
        interop.avatars interop.uv_gt fit.checkpoint_every fit.gpu_frame_memory_mib fit.frame_memory_mib
        prior.workers prior.checkpoint_every prior.weights.path prior.vgg.path prior.backbone.path
        oneshot.checkpoint_every
        evaluation.lpips.alex.path evaluation.lpips.vgg.path experiments.ID.seed experiments.ID.prior
        experiments.ID.oneshot experiments.ID.evaluation cache.folder cache.others_may_read cluster.partition
        cluster.gpu_partition cluster.account cluster.gpu_account cluster.qos cluster.gpu_qos cluster.constraint
        cluster.gpu cluster.gpu_model cluster.extra cluster.gpu_extra
    """,
    "download import": "subjects.entries.ID.participant",
    "evaluate one_shot few_shot all_frames person_figure cross_figure overview video": """
        subjects.entries.ID.source.sequence subjects.entries.ID.source.timestep subjects.entries.ID.source.camera
    """,
    "import": """
        capture.download capture.frames capture.width capture.held_out_camera capture.check capture.corrections
        capture.drop_outliers subjects.entries.ID.corrections
    """,
    "synthetic-person download": "capture.sequences subjects.entries.ID.sequences",
    "download": "capture.serials",
    "synthetic-person": """
        synthetic.seed synthetic.width synthetic.height synthetic.timesteps_per_sequence synthetic.samples_per_axis
    """,
    "adopt-avatar adopt-maps": "interop.color",
    "fit adopt-avatar adopt-maps": "fit.uv_size",
    "fit": """
        fit.iterations fit.images_per_step fit.initial_opacity fit.learning_rates.position
        fit.learning_rates.position_final fit.learning_rates.color fit.learning_rates.opacity
        fit.learning_rates.scale fit.learning_rates.rotation fit.learning_rates.pose fit.learning_rates.translation
        fit.learning_rates.expression fit.learning_rates.final_fraction fit.losses.ssim fit.losses.position
        fit.losses.position_threshold fit.losses.scale fit.losses.scale_threshold fit.losses.anchor fit.losses.coverage
        fit.hull_reach
    """,
    "train": """
        prior.architecture prior.photographs prior.surface.input_size prior.surface.widths prior.surface.blocks
        prior.surface.attention_blocks prior.surface.heads prior.surface.sampled prior.surface.code
        prior.backbone.name prior.backbone.sha256 prior.augment.misalign prior.losses.lpips_crop
        prior.source_cameras prior.sources prior.targets prior.steps prior.warmup prior.learning_rate prior.schedule
        prior.weight_decay prior.clip_norm prior.ema prior.precision prior.devices prior.nodes
        prior.validation prior.validate_every prior.compile prior.encoder.input_size prior.encoder.width
        prior.encoder.token_width prior.encoder.residual_blocks prior.encoder.attention_blocks prior.encoder.heads
        prior.encoder.dilations prior.weights.sha256 prior.vgg.sha256 prior.refiner.features prior.refiner.width
        prior.augment.brightness prior.augment.tint prior.augment.saturation prior.augment.offset
        prior.augment.shift prior.augment.scale prior.losses.l1 prior.losses.ssim prior.losses.alpha
        prior.losses.position prior.losses.position_threshold prior.losses.scale prior.losses.scale_threshold
        prior.losses.coverage prior.losses.uv prior.losses.lpips prior.losses.refined
    """,
    "tables person_figure cross_figure": "oneshot.supervision",
    "few_shot": "oneshot.few_shot_photos",
    "all_frames": "oneshot.frames_per_step oneshot.all_frames_steps oneshot.all_frames_geometry_rate",
    "one_shot few_shot": "oneshot.steps oneshot.geometry_rate oneshot.held_out oneshot.calibration_people",
    "one_shot few_shot all_frames": """
        oneshot.network_steps oneshot.network_rate oneshot.map_rate oneshot.prior oneshot.smooth oneshot.seen
        oneshot.alike oneshot.motion oneshot.motion_rate oneshot.tracking.rotation oneshot.tracking.translation
        oneshot.tracking.neck_pose oneshot.tracking.jaw_pose oneshot.tracking.eyes_pose oneshot.tracking.expr
        oneshot.losses.l1 oneshot.losses.ssim oneshot.losses.alpha oneshot.losses.position
        oneshot.losses.position_threshold oneshot.losses.scale oneshot.losses.scale_threshold
        oneshot.losses.coverage
    """,
    "cross_figure": "evaluation.cross_frames",
    "evaluate": "evaluation.lpips.alex.sha256 evaluation.lpips.vgg.sha256",
    "person_figure cross_figure overview": "report.figure_scale",
    "person_figure overview": "report.expressions",
    "video": """
        report.video_scale report.video_seconds report.video_fps report.video_yaw_degrees report.video_crf
    """,
}
"""Jobs -> the keys of the config that make them, and no others, run again."""


# another value for each key ------------------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "subjects.train": ["101", "102"],
    "subjects.test": [OWN, OTHER, "203"],
    "subjects.entries.ID.sequences": ["EMO-1-shout+laugh"],
    "subjects.entries.ID.corrections": ["millimetres"],
    "capture.sequences": ["EXP-2-eyes"],
    "capture.corrections": ["opencv_axes", "intrinsics_of:88x128"],
    "capture.serials": ["222200037"],
    "interop.avatars": "data/{subject}",
    "interop.uv_gt": "data/{subject}.npz",
    "prior.devices": 2,
    "fit.hull_reach": 0.1,
    "prior.validation": ["101"],
    "oneshot.supervision": ["one_shot", "few_shot"],
    "experiments.ID.prior": {"steps": 7},
    "experiments.ID.oneshot": {"steps": 7},
    "experiments.ID.evaluation": {"cross_frames": 7},
}
"""Where none is found by trying."""


def candidates(key: Key, value: Any) -> Iterator[Any]:
    """Values that may be valid."""
    if key.name in VALUES:
        yield VALUES[key.name]
    for option in key.schema.get("anyOf", [key.schema]):
        yield from option.get("enum", ())
        if option.get("type") == "boolean":
            yield not value
        elif option.get("type") in ("integer", "number"):
            number = value if isinstance(value, (int, float)) else 1
            yield from (number + 1, number - 1, 2 * number, number / 2, 64, 2)
        elif option.get("type") == "string":
            yield from ("other", "f" * 8, "222200038")
        elif option.get("type") == "array" and isinstance(value, list):
            yield from (value[1:], [2 * item for item in value if not isinstance(item, str)])


def base_for(key: Key) -> dict[str, Any]:
    """The base; the network of published weights cannot be another one."""
    own = key.name.startswith(("prior.encoder", "prior.architecture"))
    return deep_merge(BASE, {"prior": {"weights": None}}) if own else BASE


def changed(key: Key) -> tuple[Config, Config]:
    """The config, and the same with one key changed."""
    base = base_for(key)
    names = {"subjects": OWN, "experiments": EXPERIMENT}
    path = [names[key.path[0]] if part == ANY else part for part in key.path]
    before = validate(base)
    value = at(before.model_dump(mode="json"), path)
    for other in candidates(key, value):
        update: Any = other
        for part in reversed(path):
            update = {part: update}
        try:
            after = Config.model_validate(deep_merge(base, update))
        except ValidationError:
            continue
        if after != before:
            return before, after
    raise AssertionError(f"{key.name}: no other valid value was found; add one to VALUES")


def at(tree: Any, path: list[str]) -> Any:
    """What a dump has at a path; None where that ends before."""
    for part in path:
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def is_operational(key: Key) -> bool:
    return key.reruns_nothing or bool(key.schema.get("operational"))


# every key -----------------------------------------------------------------------------------------------


def each(*, operational: bool | None = None) -> pytest.MarkDecorator:
    """Parametrise a test with all keys, or with those that decide a result, or with the others."""
    chosen = [key for key in keys().values() if operational in (None, is_operational(key))]
    return pytest.mark.parametrize("key", [pytest.param(key, id=key.name) for key in chosen])


def test_the_table_has_every_key_once() -> None:
    listed = [name for names in TABLE.values() for name in names.split()]
    assert sorted(listed) == sorted(key.name for key in keys().values())


@each()
def test_a_key_makes_the_jobs_run_again_that_use_it(key: Key) -> None:
    before, after = changed(key)
    expected = next(jobs for jobs, names in TABLE.items() if key.name in names.split())
    assert differing(before, after, OWN if key.path[0] == "subjects" else OTHER) == set(expected.split())


@each(operational=True)
def test_an_operational_key_is_told_and_decides_nothing(key: Key) -> None:
    before, after = changed(key)
    assert before.computation() == after.computation(), "what provenance and checkpoints know"
    for subject in (OWN, OTHER):
        assert differing(before, after, subject) == set()
    path = [OWN if part == ANY else part for part in key.path]
    operation, dump = (json.loads(Pipeline(after).operation), after.model_dump(mode="json"))
    assert at(operation, path) == at(dump, path)
    assert operation != json.loads(Pipeline(before).operation)


@each(operational=False)
def test_a_key_that_decides_something_is_not_told_besides(key: Key) -> None:
    """But for a digest, without which a path of weights would be no valid section."""
    before, after = (Pipeline(config).operation for config in changed(key))
    needed = key.path[-1] == "sha256" and key.path[-2] != "backbone"  # whose section is valid without
    assert (before == after) == (not needed)


@each()
def test_jobs_understand_what_they_are_told(key: Key) -> None:
    """Some keys are valid together only; each job is told some of them."""
    _, after = changed(key)
    operation = Pipeline(after).operation
    for subject in (OWN, OTHER):
        for job, settings in told(after, subject).items():
            assert load_config([operation, settings]).results == after.results, job


# what is told ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("subject", [OWN, OTHER])
def test_a_job_has_the_config_that_it_uses(stage: str, subject: str) -> None:
    config = validate(deep_merge(BASE, {"capture": {"width": 99, "connections": 3}, "fit": {"uv_size": 99}}))
    pipeline = Pipeline(config)
    job = load_config([pipeline.operation, pipeline.settings(stage, subject)])
    for name in STAGES[stage].sections:
        if name == "capture.sequences":
            assert Pipeline(job).sequences(subject) == pipeline.sequences(subject)
        else:
            assert operator.attrgetter(name)(job) == operator.attrgetter(name)(config), name
    for name in STAGES[stage].entry:
        assert getattr(job.subjects.entry(subject), name) == getattr(config.subjects.entry(subject), name)
    assert job.flame == config.flame
    assert job.capture.connections == 3


@pytest.mark.parametrize("supervision", ["one_shot", "few_shot"])
def test_a_calibration_is_told_what_the_avatars_are_told(supervision: Supervision) -> None:
    """It personalises with the same settings, but for nobody's own photograph."""
    pipeline = Pipeline(validate(deep_merge(BASE, {"oneshot": {"steps": 7, "few_shot_photos": 4}})))
    avatar = json.loads(pipeline.settings("oneshot", OTHER, supervision=supervision))
    assert json.loads(pipeline.settings("calibrate", supervision=supervision)) == avatar


def test_where_files_lie_is_in_no_settings() -> None:
    """Two configs that differ only in their paths: the jobs of both make the same."""
    here = {**BASE, "interop": {"avatars": "data/{subject}", "uv_gt": "data/{subject}.npz"}}
    here = deep_merge(here, {"results": "data/results", "capture": {"tracking": "data/{subject}"}})
    there = json.loads(json.dumps(here).replace("data/", "/elsewhere/"))
    before, after = validate(here), validate(there)
    assert before.computation() == after.computation()
    for subject in ("101", OWN, OTHER):
        assert differing(before, after, subject) == set()
        assert not [job for job, text in told(before, subject).items() if "data/" in text or "results" in text]
    assert Pipeline(after).operation == Pipeline(before).operation.replace("data/", "/elsewhere/")


def test_rhythm_and_memory_at_default_settings_rerun_nothing() -> None:
    """A section of which only such keys are changed is told as one that is not changed at all."""
    people = {"subjects": BASE["subjects"]}
    quick = {"fit": {"checkpoint_every": 9}, "prior": {"workers": 0}, "oneshot": {"checkpoint_every": 9}}
    assert differing(validate(people), validate(people | quick)) == set()


@pytest.mark.parametrize("listed", [["few_shot"], ["all_frames", "few_shot"], ["one_shot", "few_shot"]])
def test_pictures_show_the_avatars_that_are_made(listed: list[str]) -> None:
    config = validate({**BASE, "oneshot": {"supervision": listed}})
    pipeline, jobs = Pipeline(config), told(config)
    for job in ("overview", "video", "person_figure", "cross_figure", "tables"):
        known = Pipeline(load_config([pipeline.operation, jobs[job]]))
        assert known.shown == pipeline.shown, job
        assert job in ("overview", "video") or known.methods == pipeline.methods


# entries of people ---------------------------------------------------------------------------------------


def entered(subject: str, entry: dict[str, Any], **config: Any) -> Config:
    people: dict[str, Any] = {"train": ["101", "017"], "test": [OTHER], "entries": {subject: entry}}
    return validate({"subjects": people, **config})


@pytest.mark.parametrize(("subject", "participant"), [("101", 101), ("017", 17)])
def test_a_participants_own_number_changes_nothing(subject: str, participant: int) -> None:
    without = entered(subject, {})
    assert differing(without, entered(subject, {"participant": participant}), subject) == set()
    assert differing(without, entered(subject, {"participant": 5}), subject) == {"download", "import"}


def test_sequences_that_are_everybodys_are_fetched_as_everybodys() -> None:
    two = ["EXP-2-eyes", "EMO-1-shout+laugh"]
    for capture in ({}, {"sequences": two}):
        without = entered("101", {}, capture=capture)
        named = entered("101", {"sequences": without.capture.sequences}, capture=capture)
        assert differing(without, named, "101") == set()
        for job in ("download", "synthetic-person"):
            assert Pipeline(load_config([told(named, "101")[job]])).sequences("101") == without.capture.sequences


def test_who_has_sequences_of_their_own_is_not_concerned_by_others() -> None:
    own = {"sequences": ["EXP-2-eyes"]}
    before, after = entered("101", own), entered("101", own, capture={"sequences": ["EXP-4-lips"]})
    assert differing(before, after, "101") == set()
    assert differing(before, after, "017") == {"download", "synthetic-person"}
    assert "EXP-2-eyes" in told(after, "101")["download"]


def test_an_entry_concerns_nobody_else() -> None:
    entry = BASE["subjects"]["entries"][OWN]
    assert differing(entered("101", {}), entered("101", entry), "017") == set()
    before, after = entered(OTHER, {}), entered(OTHER, {"source": entry["source"]})
    own = {"one_shot", "few_shot", "all_frames", "evaluate", "person_figure", "cross_figure", "video"}
    assert differing(before, after, OTHER) == own | {"overview"}
    assert differing(before, after, "101") == {"overview"}  # in which everybody is


def test_one_more_test_person_concerns_the_overview_alone() -> None:
    people = {"train": ["101"], "test": ["201"]}
    before = validate({**BASE, "subjects": people})
    after = validate({**BASE, "subjects": {**people, "test": ["201", "202"]}})
    assert differing(before, after, "201") == set()
    assert Pipeline(before).driver("201") == Pipeline(after).driver("201")
    assert set(Pipeline(before).overview_files) < set(Pipeline(after).overview_files)


# experiments ---------------------------------------------------------------------------------------------

VARIANTS: list[dict[str, Any]] = [
    {"seed": 3},
    {"prior": {"steps": 7, "encoder": {"width": 32}}},
    {"prior": {"workers": 2, "weights": {"path": "elsewhere/weights.pth", "sha256": "f" * 8}}},
    {"oneshot": {"supervision": ["few_shot"], "checkpoint_every": 3}},
    {"evaluation": {"cross_frames": 3, "lpips": {"alex": {"path": "elsewhere/alex.pth", "sha256": "f" * 8}}}},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_an_experiment_is_told_what_the_config_would_say_without_it(variant: dict[str, Any]) -> None:
    base = {"subjects": BASE["subjects"], "fit": {"uv_size": 99}}
    run = Pipeline(validate({**base, "experiments": {EXPERIMENT: variant}})).run(EXPERIMENT)
    alone = Pipeline(validate(deep_merge(base, variant)))
    for subject in (OWN, OTHER):
        assert told(run.config, subject) == told(alone.config, subject)
    assert run.operation == alone.operation
    for job, settings in told(run.config).items():
        load_config([run.operation, settings])
        assert "elsewhere" not in settings, job


def test_an_import_is_told_of_a_persons_own_sequences() -> None:
    """NeRSemble's benchmark is restricted to them, and not to everybody's."""
    own = load_config([own_sequences(entered("101", {"sequences": ["EXP-2-eyes"]}), "101")])
    assert own.subjects.entry("101").sequences == ["EXP-2-eyes"]
    assert load_config([own_sequences(entered("101", {}), "101")]).subjects.entry("101").sequences is None
