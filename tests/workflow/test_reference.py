"""config.yaml, the schema, docs/config.md and the documentation name the keys that the model has, and only those."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from osgap.cli.common import Common
from osgap.cli.config import config as command
from osgap.runtime.errors import UserError
from osgap.runtime.section import Section, is_operational
from osgap.workflow import config_check, reference
from osgap.workflow.config import Config, load_config
from osgap.workflow.config_check import check

ROOT = Path(__file__).parents[2]
PROFILES = [path for path in sorted((ROOT / "profiles").rglob("*.yaml")) if path.name != "config.yaml"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the check reads, in a folder to spoil; of the documentation only what is made."""
    for name in ("config.yaml", *config_check.GENERATED):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def test_this_checkout_agrees() -> None:
    assert check(ROOT) == []


def test_the_full_config_is_the_defaults_but_for_its_people() -> None:
    config = load_config([ROOT / "config.yaml"])
    assert config == Config(subjects=config.subjects)
    assert config.subjects.train


def _replace(old: str, new: str) -> Callable[[str], str]:
    def edit(text: str) -> str:
        assert text.count(old) == 1
        return text.replace(old, new)

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (_replace("    anchor: 0.0 ", "    # "), "config.yaml: fit.losses.anchor is missing; add `anchor: 0.0`"),
        (_replace("  #uv_gt: ", "  # "), "config.yaml: interop.uv_gt is missing; add an example, `#uv_gt: …`"),
        (_replace("      #tracking: ", "      # "), "config.yaml: subjects.entries.ID.tracking is missing"),
        (_replace("  #refiner: {features: 31, width", "  #refiner: {width"), "prior.refiner.features is missing"),
        (_replace("  iterations: ", "  iteratons: "), "fit.iteratons: unknown key; did you mean `iterations`?"),
        (_replace("  #samples_per_axis: ", "  #sample_axis: "), "synthetic.sample_axis: unknown key; did you mean"),
        (_replace("participant: 306 ", "person: 306 "), "subjects.entries.306.person: unknown key; known here: partic"),
        (_replace("#participant: 306 ", "#participant: many"), "subjects.entries.306.participant: found"),
        (_replace("  uv_size: 256", "  uv_size: 300"), "fit.uv_size is 300, the default is 256; show that, or"),
        (_replace("  #height: 256", "  #height: 300"), "synthetic.height is 300, the default is 256"),
        (_replace("; default: []", "; default: [0]"), "subjects.test: the default is [], not [0]"),
        (_replace("  video_fps: 24", "  video_fps: 24\n  video_fps: 24"), "report.video_fps stands in line"),
        (_replace("  width: null", "  width: 3"), "config.yaml: capture.width: found 3; input should be greater"),
        (_replace("  #lpips:", "  #lpips"), "not YAML once the examples are taken in"),
        (_replace("#flame:", "flame:"), "config.yaml: flame: found null"),
    ],
)
def test_a_config_that_disagrees_is_told_so(checkout: Path, edit: Callable[[str], str], said: str) -> None:
    file = checkout / "config.yaml"
    assert check(checkout) == []
    file.write_text(edit(file.read_text()))
    findings = check(checkout)
    assert any(said in line for line in findings), findings


def test_findings_name_file_and_line(checkout: Path) -> None:
    file = checkout / "config.yaml"
    text = file.read_text()
    file.write_text(text.replace("  #samples_per_axis: ", "  #sample_axis: "))
    row = text[: text.index("#samples_per_axis")].count("\n") + 1
    assert f"config.yaml:{row}: synthetic.sample_axis: unknown key; did you mean `samples_per_axis`?" in check(checkout)


@pytest.mark.parametrize("name", config_check.GENERATED)
def test_generated_files_are_up_to_date(checkout: Path, name: str) -> None:
    (checkout / name).write_text((checkout / name).read_text() + " ")
    option = config_check.GENERATED[name][0]
    assert check(checkout) == [
        f"{name}: is not what the config's docstrings say now; run `osgap config {option} > {name}`"
    ]
    (checkout / name).unlink()
    assert check(checkout) == [f"{name}: is missing; run `osgap config {option} > {name}`"]


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        ("See `fit.iteratons`.", ["docs/page.md:1: fit.iteratons: unknown key; did you mean `iterations`?"]),
        (
            "\nA span over\ntwo `prior.losses: {lpips: 0.4,\nuvs: 1}` lines.",
            ["docs/page.md:3: prior.losses.uvs: "],
        ),
        ("    osgap fit 306 --set fit.steps=3\n", ["docs/page.md:1: fit.steps: unknown key"]),
        ("x\n```yaml\ncapture:\n  camera: 3\n```\n", ["docs/page.md:4: capture.camera: unknown key"]),
        ("`subjects.entries.306.sorce`", ["docs/page.md:1: subjects.entries.306.sorce: unknown key; did you mean"]),
        ("`oneshot.seen` and `fit.losses.ssim.share`", ["docs/page.md:1: fit.losses.ssim.share: unknown key; known"]),
        ("`subjects.entries.ID.source`, `prior.encoder: {width: 32}`, `capture.tracking: {subject}_*`", []),
        ("`fit.losses: {…}` and `fit.losses: {ssim: 0.1, …`", []),
        ("`osgap.fit.lossy`, `osgap/fit.lossy`, `report.html`, fit.lossy, `fit: {lossy: 1}`", []),
        ("```python\nfit.lossy\n```\n```yaml\nexecutor: slurm\n```\n", []),
    ],
)
def test_keys_that_documentation_names(checkout: Path, text: str, findings: list[str]) -> None:
    (checkout / "docs/page.md").write_text(text)
    said = check(checkout)
    assert len(said) == len(findings)
    assert all(line.startswith(start) for line, start in zip(said, findings, strict=True))


def test_profiles_and_chosen_files(checkout: Path) -> None:
    mine = checkout / "profiles/mine/mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("fit:\n  iteratons: 3\n")
    (mine.parent / "config.yaml").write_text("cores: 2\n")  # Snakemake's
    assert [line.partition(" ")[0] for line in check(checkout)] == ["profiles/mine/mine.yaml:2:"]
    assert len(check(checkout, [mine])) == 1
    (checkout / "config.yaml").unlink()
    assert check(checkout, [checkout / "docs/config.md"]) == []
    assert "cannot be read" in check(checkout)[0]


def test_every_key_says_what_it_means_and_numbers_their_unit(monkeypatch: pytest.MonkeyPatch, checkout: Path) -> None:
    class Bare(Section):
        size: int = 3
        """How much."""
        name: str = "a"
        width: float | None = None
        """Width [metres]; [0, 1] is no unit."""

    monkeypatch.setattr(reference, "Config", Bare)
    width = reference.keys()["width",]
    assert (width.unit, width.meaning) == ("metres", "Width; [0, 1] is no unit.")
    findings = [line for line in check(checkout) if not line.startswith(("config.yaml", "docs/"))]
    assert [line.split(";")[0] for line in findings] == ["size: a number without a unit", "name: no docstring"]


# the schema and the page --------------------------------------------------------------------------------
def test_the_schema_takes_what_the_model_takes() -> None:
    jsonschema = pytest.importorskip("jsonschema")  # Snakemake depends on it
    schema = json.loads(reference.schema_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for path in [ROOT / "config.yaml", *PROFILES]:
        assert not list(validator.iter_errors(yaml.safe_load(path.read_text()))), path
    for text in ("fitt: {}", "fit: {iteratons: 3}", "fit: {iterations: 0}", "synthetic: {widht: 3}"):
        wrong = yaml.safe_load(text)
        assert list(validator.iter_errors(wrong)), wrong
    assert not list(validator.iter_errors({"capture": {"url": "https://host.example/data"}}))


def test_all_objects_of_the_schema_are_closed_or_named_by_the_user() -> None:
    schema = reference.schema()
    for section in (schema, *schema["$defs"].values()):
        assert section["additionalProperties"] is False


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.name)
def test_profiles_are_partial_configs(path: Path) -> None:
    demo = [ROOT / "profiles/demo/demo.yaml"] if path.name in ("reduced.yaml", "cpu.yaml") else []
    load_config([ROOT / "config.yaml", *demo, path])


def test_the_page_has_a_row_for_every_leaf_of_the_config() -> None:
    page = reference.page()
    rows = dict(re.findall(r"^\| `([\w.]+)` \| .* \| (`[^|]*`|required) \| (?:[^|]|\\\|)+ \|$", page, re.MULTILINE))
    dump = Config().model_dump(mode="json")
    leaves = _leaves(dump)
    sections = ("flame.assets", "synthetic", "prior.weights", "prior.vgg", "prior.refiner")
    for optional in ("subjects.entries", "experiments", *sections):
        assert leaves.pop(optional) in (None, {})
    assert leaves.pop("evaluation.lpips.alex") is leaves.pop("evaluation.lpips.vgg") is None
    for name, value in leaves.items():
        assert yaml.safe_load(rows[name].strip("`")) == value
    assert rows["oneshot.losses.alpha"] == "`3.0`"  # not the default of the section's class
    assert {"synthetic.width", "prior.weights.sha256", "subjects.entries.ID.source.camera", "capture.url"} <= set(rows)
    assert page.startswith("<!-- Made by `osgap config --reference")
    assert page.endswith("|\n")
    assert page == reference.page()


def _leaves(tree: dict[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            found |= _leaves(value, (*path, key))
        else:
            found[".".join((*path, key))] = value
    return found


def marked(model: type[BaseModel], path: str = "", above: bool = False) -> Iterator[str]:
    """Keys that are marked as operational, or within a section that is; not those that are places."""
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        here = above or (is_operational(field) and not (isinstance(extra, dict) and extra.get("place")))
        within = f"{path}{name}.ID." if get_origin(field.annotation) is dict else f"{path}{name}."
        sections = [
            part
            for part in (field.annotation, *get_args(field.annotation))
            if isinstance(part, type) and issubclass(part, BaseModel)
        ]
        for section in sections:
            yield from marked(section, within, here)
        if here and not sections:
            yield f"{path}{name}"


def test_the_page_says_which_keys_rerun_nothing() -> None:
    said = {line.split("`")[1] for line in reference.page().splitlines() if line.endswith(" Reruns nothing. |")}
    assert said == set(marked(Config))
    assert {"fit.checkpoint_every", "prior.workers", "cluster.gpu", "cache.folder"} <= said
    # Files at another path are other files to Snakemake.
    places = {"results", "flame.assets.model", "capture.tracking", "subjects.entries.ID.tracking", "prior.vgg.path"}
    assert not said & {"fit.iterations", "subjects.entries.ID.source", *places}


def test_types_as_people_say_them() -> None:
    class Every(Section):
        a: int = Field(default=1, ge=1, le=4, multiple_of=2)
        b: float | None = Field(default=None, gt=0, lt=2)
        c: tuple[int, int] = (1, 2)
        d: list[str] = Field(default=[], min_length=1)
        e: bool = False
        f: Path = Path()
        g: int = Field(default=0, lt=2**63)

    fields = Every.model_json_schema()["properties"]
    assert [reference.type_text(field) for field in fields.values()] == [
        "integer >= 1, <= 4, a multiple of 2",
        "number > 0, < 2, or null",
        "list of 2 integers",
        "list of texts; at least 1",
        "true or false",
        "path",
        "integer < 2^63",
    ]


_texts = st.text("aN0é …'\"#:-[]{}&*,|~", max_size=5)


@given(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _texts | st.lists(_texts))
def test_defaults_are_shown_as_yaml(value: Any) -> None:
    text = reference.default_text(value)
    assert yaml.safe_load(text) == value
    assert type(yaml.safe_load(text)) is type(value)


# the command --------------------------------------------------------------------------------------------
def test_the_command_prints_a_config_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    common = Common(
        config=(str(ROOT / "config.yaml"), '{"capture": {"url": "https://host.example/s3cret"}}'),
        set=("fit.uv_size=64",),
    )
    command(common=common)
    printed = capsys.readouterr().out
    assert "s3cret" not in printed
    assert load_config([yaml.safe_load(printed)]).fit.uv_size == 64
    expected = load_config([ROOT / "config.yaml"], common.set).model_dump(mode="json")
    assert yaml.safe_load(printed) == expected


def test_the_command_prints_what_is_made_and_checks(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkout)
    command(reference=True)
    assert capsys.readouterr().out == Path("docs/config.md").read_text()
    command(schema=True)
    assert capsys.readouterr().out == Path("docs/config.schema.json").read_text()
    command(check=True)
    Path("docs/page.md").write_text("`fit.iteratons`")
    with pytest.raises(SystemExit) as caught:
        command(check=True)
    assert caught.value.code == 1
    assert "docs/page.md:1: fit.iteratons" in capsys.readouterr().err
    with pytest.raises(UserError, match="choose one"):
        command(check=True, schema=True)
    with pytest.raises(UserError, match=r"--config mine\.yaml"):
        command((Path("mine.yaml"),))
