"""What a user has accepted stands, and nothing else does; whatever happened before and whatever happens after."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from osgap import cli
from osgap.runtime.acceptance import Acceptance, looking_through, read_acceptances, standing, write_acceptances
from osgap.runtime.artifacts import write_json
from osgap.runtime.checkpoint import Checkpoints
from osgap.runtime.code import digest_of
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import Key
from osgap.synthetic.head import stage
from osgap.workflow import accept as work
from osgap.workflow.config import load_config
from osgap.workflow.layout import Layout
from osgap.workflow.pipeline import Pipeline
from osgap.workflow.stages import STAGES

STAGE = "fit"
MODULE = "osgap.head.model"


def code_of(version: int) -> dict[str, str]:
    """Digests of the modules of a stage, after some edits."""
    return {MODULE: f"{version:016x}", "osgap.fit.stage": "0" * 16}


def digest(version: int) -> str:
    return digest_of(code_of(version))


class World:
    """One stage of one results folder; and Snakemake, as far as it remembers."""

    def __init__(self, results: Path) -> None:
        self.pipeline = Pipeline(load_config([{"results": str(results)}]))
        self.layout = self.pipeline.layout
        self.version = 0
        self.packages = 0
        self.recorded: dict[Path, str] = {}

    def file(self, subject: str) -> Path:
        return self.layout.fit(subject) / "fit.json"

    def finish(self, subject: str, *resumed: int) -> None:
        """Write what a job writes that is run now."""
        versions = {"torch": f"2.{self.packages}", "osgap": str(self.version)}
        provenance: dict[str, Any] = {"stage": STAGE, "subject": subject, "code": code_of(self.version)}
        provenance["versions"] = versions
        if resumed:
            provenance["resumed"] = [digest(version) for version in resumed]
        write_json(self.file(subject), {}, provenance)

    def parameter(self, subject: str) -> str:
        """What the rule is told of a job, as a Snakemake finds that starts now."""
        self.pipeline.__dict__.pop("acceptances", None)
        self.pipeline.recorded = self.recorded.get
        return self.pipeline.code(STAGE)(SimpleNamespace(items=lambda: {"subject": subject}.items()))

    def treat_upgrades(self, mode: str) -> None:
        """Set the config's key."""
        self.pipeline.config = self.pipeline.config.model_copy(update={"upgrades": mode})

    def planned(self, subject: str) -> bool:
        return self.recorded[self.file(subject)] != self.parameter(subject)

    def run(self, subject: str, evaluated: str = "before") -> None:
        """Let Snakemake run a job. It may ask for the parameter before, when the old output is gone, or after."""
        parameter = {"before": self.parameter(subject)}
        self.file(subject).unlink(missing_ok=True)
        parameter["between"] = self.parameter(subject)
        self.finish(subject)
        parameter["after"] = self.parameter(subject)
        self.recorded[self.file(subject)] = parameter[evaluated]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return make_world(tmp_path, monkeypatch)


def make_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path / "results")
    monkeypatch.setattr(work, "code_digests", lambda _: code_of(world.version))
    monkeypatch.setattr(work, "code_digest", lambda _: digest(world.version))
    monkeypatch.setattr(work, "current_versions", lambda: {"torch": f"2.{world.packages}", "osgap": "9"})
    return world


def test_accepted_outputs_stand_until_it_is_taken_back(world: World) -> None:
    world.run("101")
    before = world.file("101").read_bytes()
    world.version = 1
    assert world.planned("101")
    (found,) = work.accept(world.layout, [STAGE])
    assert found.pending == [digest(0)]
    assert found.modules[digest(0)] == (MODULE,)
    assert not world.planned("101")
    world.run("102")  # a new person
    assert not world.planned("102")
    assert read_acceptances(world.layout.accepted) == {STAGE: (Acceptance(digest(0), digest(1), (MODULE,)),)}
    (taken,) = work.undo(world.layout, [STAGE])
    assert taken.accepted == (digest(0),)
    assert world.planned("101")
    assert not world.planned("102"), "made by the present code"
    assert world.file("101").read_bytes() == before


def test_an_edit_after_an_acceptance_is_an_edit(world: World) -> None:
    world.run("101")
    world.version = 1
    work.accept(world.layout, [STAGE])
    world.version = 2
    assert world.planned("101")
    work.accept(world.layout, [STAGE])
    assert not world.planned("101")
    world.version = 1
    assert not world.planned("101"), "what was accepted of that code still holds"


def test_outputs_of_several_codes_are_accepted_at_once(world: World) -> None:
    for version, subject in enumerate(("101", "102", "103")):
        world.version = version
        world.run(subject)
    (found,) = work.accept(world.layout, [STAGE])
    assert found.pending == sorted([digest(0), digest(1)])
    assert found.made_by(found.pending) == (2, 0)
    assert not any(map(world.planned, ("101", "102", "103")))
    (again,) = work.accept(world.layout, [STAGE])
    assert again.pending == []


def test_what_went_on_from_accepted_code_is_lost_with_it(world: World) -> None:
    world.run("101")
    world.version = 1
    work.accept(world.layout, [STAGE])
    world.finish("102", 0)
    world.recorded[world.file("102")] = world.parameter("102")
    assert not world.planned("102")
    work.undo(world.layout, [STAGE])
    assert world.planned("102")


def test_a_training_under_way_says_by_what_code(world: World) -> None:
    folder = world.layout.checkpoints("fit", "101")
    with Checkpoints(folder, Key("computation", digest(0))) as checkpoints:
        checkpoints.save({"step": 1})
    world.version = 1
    (found,) = work.accept(world.layout, [STAGE])
    assert found.made_by(found.pending) == (0, 1)
    accepted = standing(read_acceptances(world.layout.accepted), STAGE, digest(1))
    with Checkpoints(folder, Key("computation", digest(1), accepted)) as checkpoints:
        assert checkpoints.load() == {"step": 1}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("edit"), st.integers(0, 3)),
        st.tuples(st.just("upgrade"), st.integers(0, 2)),
        st.tuples(st.just("upgrades"), st.sampled_from(("warn", "rerun", "accept"))),
        st.tuples(st.sampled_from(("accept", "undo", "make")), st.none()),
        st.tuples(st.just("run"), st.tuples(st.sampled_from("abc"), st.sampled_from(("before", "between", "after")))),
    ),
    max_size=24,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(
    steps=[("upgrades", "rerun"), ("run", ("b", "before")), ("edit", 1), ("run", ("b", "after")), ("upgrades", "warn")]
)
@given(steps=steps)
def test_jobs_run_if_and_only_if_other_code_or_packages_made_their_outputs(
    steps: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever the order of fits, edits (and back), upgrades, acceptances and what takes them back."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        world = make_world(tmp_path_factory.mktemp("world"), monkeypatch)
        made: dict[str, int] = {}
        by: dict[str, int] = {}
        mode = "warn"
        accepted: set[tuple[int, int]] = set()
        for step, detail in steps:
            if step == "edit":
                world.version = detail
            elif step == "upgrade":
                world.packages = detail
            elif step == "upgrades":
                world.treat_upgrades(mode := detail)
            elif step == "accept":
                work.accept(world.layout, [STAGE])
                accepted |= {(version, world.version) for version in made.values()}
            elif step == "undo":
                work.undo(world.layout, [STAGE])
                accepted = {(old, new) for old, new in accepted if new != world.version}
            else:
                jobs = [detail] if step == "run" else [(s, "before") for s in made if world.planned(s)]
                for subject, evaluated in jobs:
                    world.run(subject, evaluated)
                    made[subject], by[subject] = world.version, world.packages
            for subject, version in made.items():
                stands = version == world.version or (version, world.version) in accepted
                stands = stands and (mode != "rerun" or by[subject] == world.packages)
                assert world.planned(subject) != stands


def test_an_upgrade_on_the_way_counts(world: World) -> None:
    world.run("101")
    content = json.loads(world.file("101").read_text())["provenance"]
    write_json(world.file("101"), {}, {**content, "upgraded": {"torch": ["1.0"]}})
    assert not world.planned("101")
    world.treat_upgrades("rerun")
    assert world.planned("101")


def test_nothing_is_opened_where_nothing_was_accepted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study has thousands of outputs."""
    world.treat_upgrades("rerun")
    world.run("101")
    world.packages = 1
    assert world.planned("101")
    world.run("101")
    assert not world.planned("101")
    world.treat_upgrades("warn")
    monkeypatch.setattr(work, "read_provenance", lambda path: pytest.fail("a file was opened"))
    assert not world.planned("101"), "what an upgrade ran again stays"
    world.version = 1
    assert world.planned("101")


def test_outputs_of_experiments_are_found(tmp_path: Path) -> None:
    for place in ("", "experiments/a/", "experiments/b/"):
        write_json(tmp_path / f"{place}prior/train.json", {}, {"stage": "train", "code": code_of(1)})
    write_json(tmp_path / "experiments/a/oneshot/101/oneshot.json", {}, {"stage": "oneshot", "code": code_of(1)})
    with Checkpoints(
        Layout(tmp_path, place="experiments/a/").checkpoints("train"), Key("one", digest(0))
    ) as checkpoints:
        checkpoints.save({})
    layout = Layout(tmp_path)
    found = work.gather(layout, "train")
    assert len(found.outputs) == 3
    assert len(found.checkpoints) == 1
    assert len(work.gather(layout, "oneshot").outputs) == 1


# which files are looked at -------------------------------------------------------------------------------
def test_every_stage_has_a_file_that_says_what_made_it(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for name in STAGES:
        assert work.record(layout, name).is_relative_to(tmp_path)
        assert work.gather(layout, name).pending == []


def test_files_of_another_stage_and_damaged_ones_are_passed_over(world: World) -> None:
    world.run("101")
    world.file("102").parent.mkdir(parents=True)
    world.file("102").write_text("{")
    write_json(world.file("103"), {}, {"stage": "adopt-avatar", "code": code_of(7)})
    write_json(world.file("104"), {})
    (world.layout.results / "figures").mkdir()
    (world.layout.results / "figures" / "overview.png").write_bytes(b"no picture")
    world.version = 1
    (found,) = work.accept(world.layout, [STAGE])
    assert [path.parent.name for path in found.outputs] == ["101"]
    assert work.gather(world.layout, "adopt-avatar").outputs.keys() == {world.file("103")}
    assert not work.gather(world.layout, "figure").outputs


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"fit": 1}',
        '{"fit": ["a"]}',
        '{"fit": [{"old": "a"}]}',
        '{"fit": [{"old": 1, "new": "b"}]}',
        "\0",
    ],
)
def test_a_damaged_record_of_acceptances_is_named(world: World, content: str) -> None:
    world.layout.accepted.parent.mkdir(parents=True)
    world.layout.accepted.write_text(content)
    for attempt in (
        lambda: world.pipeline.acceptances,
        lambda: work.accept(world.layout, [STAGE]),
        lambda: work.undo(world.layout, [STAGE]),
    ):
        with pytest.raises(UserError, match=r"accepted\.json"):
            attempt()
    assert world.layout.accepted.read_text() == content


def test_snakemake_is_asked_for_the_digest_among_its_parameters(tmp_path: Path) -> None:
    digest_ = "0123456789abcdef"
    for parameters, expected in (
        ([repr('{"fit": {}}'), repr(digest_)], digest_),
        ([repr(f"{digest_} after {'f' * 16}")], f"{digest_} after {'f' * 16}"),
        ([repr("101,102")], None),
        (None, None),
    ):
        persistence = SimpleNamespace(params=lambda _, found=parameters: found)
        recorded = work.snakemake_records(SimpleNamespace(persistence=persistence))
        assert recorded(tmp_path / "a") == expected
    assert work.snakemake_records(SimpleNamespace(persistence=None))(tmp_path / "a") is None


# the command ---------------------------------------------------------------------------------------------
@pytest.fixture
def command(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    def run(*arguments: str) -> str:
        given = json.dumps({"results": str(world.layout.results)})
        monkeypatch.setattr(sys, "argv", ["osgap", "accept", *arguments, "--config", given])
        cli.main()
        return capsys.readouterr().out

    with looking_through(world.layout.accepted):  # what holds for the rest of a process holds for the test
        yield run


def test_the_command_says_what_differs_what_it_accepts_and_what_it_takes_back(
    world: World, command: Callable[..., str]
) -> None:
    assert command() == "Nothing differs.\n"
    assert command("fit") == "fit: nothing to accept, no output and no checkpoint of it is there\n"
    world.run("101")
    assert command("fit") == "fit: nothing to accept, all that is there stands already\n"
    assert not world.layout.accepted.exists()
    world.version = 1
    assert command() == (
        "fit: 1 output made by other code than the present\n    code osgap.head.model changed\n"
        "To let all of it stand: osgap accept fit\n"
    )
    assert not world.layout.accepted.exists()
    assert command("fit") == ("fit: 1 output accepted as made by the present code\n    code osgap.head.model changed\n")
    assert command() == "fit: 1 output accepted as made by the present code\nNothing differs.\n"
    assert command("--undo", "bake") == f"bake: nothing was accepted for the present code ({digest(1)})\n"
    assert command("--undo") == "fit: 1 output no longer accepted\n"
    assert command("--undo") == "Nothing was accepted for the present code.\n"


def test_the_command_names_the_stages(
    world: World, command: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command("fitt")
    assert ended.value.code == UserError.EXIT_CODE
    said = capsys.readouterr().err
    assert "fitt" in said
    assert all(name in said for name in STAGES)


def test_stages_that_the_command_line_runs_look_through_acceptances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    code = Pipeline(load_config([{"results": str(results)}])).code("synthetic-head")(SimpleNamespace(items=dict))
    write_acceptances(results / "accepted.json", {"synthetic-head": [Acceptance("0" * 16, code)]})
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(stage, "write_assets", lambda _, provenance: written.append(provenance))
    given = json.dumps({"results": str(results), "synthetic": {}})
    monkeypatch.setattr(sys, "argv", ["osgap", "synthetic-head", "--config", given])
    with looking_through(tmp_path / "absent"):  # what holds for the rest of a process holds for this test
        cli.main()
    assert written[0]["accepted"] == ["0" * 16]
    assert digest_of(written[0]["code"]) == code
