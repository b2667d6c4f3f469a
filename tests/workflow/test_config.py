"""The config is checked before anything runs, and its errors say what was found and what would be accepted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osgap.runtime.errors import UserError
from osgap.workflow.config import Config, deep_merge, load_config

ROOT = Path(__file__).parents[2]


def test_shipped_configs_are_valid() -> None:
    assert load_config([ROOT / "config.yaml"]).synthetic is None
    demo = load_config([ROOT / "config.yaml", ROOT / "profiles/demo/demo.yaml"])
    assert demo.synthetic is not None
    assert len(demo.subjects.train) >= 6
    assert len(demo.subjects.test) >= 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"fit": {"iteratons": 3}}, ["fit.iteratons", "unknown key", "did you mean `iterations`"]),
        ({"fitt": {}}, ["fitt", "did you mean `fit`"]),
        ({"prior": {"encoder": {"widht": 8}}}, ["prior.encoder.widht", "did you mean `width`"]),
        ({"fit": {"iterations": "many"}}, ["fit.iterations", '"many"', "integer"]),
        ({"fit": {"iterations": 0}}, ["fit.iterations", "found 0", "greater than or equal to 1"]),
        ({"fit": {"learning_rates": {"color": float("nan")}}}, ["fit.learning_rates.color", "finite"]),
        ({"fit": 3}, ["fit", "found 3"]),
        ({"seed": -1}, ["seed", "found -1"]),
        ({"subjects": {"train": ["017"], "test": ["017"]}}, ["017", "subjects.train", "subjects.test", "unseen"]),
        ({"subjects": {"train": ["017", "017"]}}, ["017", "more than once"]),
        ({"subjects": {"train": [17]}}, ["subjects.train", "17", "quotes"]),
        ({"subjects": {"train": ["../017"]}}, ["../017", "letters"]),
        ({"subjects": {"entries": {"017": {"sorce": {}}}}}, ["subjects.entries.017.sorce", "did you mean `source`"]),
        ({"capture": {"sequences": ["EXP-2-eye"]}}, ["capture.sequences", "EXP-2-eye", "did you mean 'EXP-2-eyes'"]),
        ({"synthetic": {"sequences": ["EXP-2-eyes"]}}, ["synthetic.sequences", "unknown key"]),
        ({"prior": {"accelerator": "cpu"}}, ["prior.accelerator", "`accelerator` is a key of the top"]),
        ({"capture": {"tracking": "{result}/{subject}"}}, ["capture.tracking", "{result}"]),
    ],
)
def test_errors_name_the_key_the_value_and_the_way_out(content: dict, said: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_config([content])
    for words in said:
        assert words in str(caught.value)


def test_all_errors_at_once() -> None:
    with pytest.raises(UserError) as caught:
        load_config([{"seed": -1, "fit": {"iterations": 0}}])
    assert "seed" in str(caught.value)
    assert "fit.iterations" in str(caught.value)


def test_a_secret_url_is_in_no_message_and_no_dump() -> None:
    secret = "https://host.example/s3cret"
    with pytest.raises(UserError) as caught:
        load_config([{"seed": -1, "capture": {"url": secret}}])
    assert "s3cret" not in str(caught.value)
    config = load_config([{"capture": {"url": secret}}])
    assert "s3cret" not in config.model_dump_json() + repr(config)


@pytest.mark.parametrize(
    ("text", "said"),
    [("- a\n- b\n", "list"), ("a: [1\n", "not valid YAML"), ("\x00", "not valid YAML")],
)
def test_broken_files(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        load_config([path])
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.yaml"):
        load_config([tmp_path / "absent.yaml"])


def test_sources_and_overrides_merge_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("fit: {iterations: 5, uv_size: 32}\n")
    config = load_config([path, '{"fit": {"iterations": 6}}'], ["fit.uv_size=64", "subjects.train=['1', '2']"])
    assert (config.fit.iterations, config.fit.uv_size) == (6, 64)
    assert config.subjects.train == ["1", "2"]
    with pytest.raises(UserError, match="KEY=VALUE"):
        load_config([path], ["fit.uv_size"])


def test_paths_may_name_the_results_folder() -> None:
    demo = [ROOT / "config.yaml", ROOT / "profiles/demo/demo.yaml"]
    config = load_config([*demo, {"results": "elsewhere"}])
    assert config.flame.assets is not None
    assert config.flame.assets.model == Path("elsewhere/synthetic/head/flame2023.pkl")
    assert config.capture.url == "elsewhere/synthetic/nersemble"
    assert config.capture.tracking == "elsewhere/synthetic/tracking/{subject}/UNION3_{subject}"
    entries = {"7": {"tracking": "{results}/{participant:03d}"}}
    content = {"subjects": {"test": ["7"], "entries": entries}, "interop": {"avatars": "{results}/old/{subject}"}}
    config = load_config([content])
    assert config.subjects.entry("7").tracking == "results/{participant:03d}"
    assert config.interop.avatars == "results/old/{subject}"


def test_who_is_no_subject() -> None:
    subjects = load_config([{"subjects": {"train": [f"{n:03d}" for n in range(9)], "test": ["100"]}}]).subjects
    subjects.refuse_stranger("100")
    with pytest.raises(
        UserError, match=r"subject 101 is in neither .*\(000, 001, .*007, …\); check the name, or add it"
    ):
        subjects.refuse_stranger("101")
    for name in ("face.jpg", "photographs/face", "./100"):
        with pytest.raises(
            UserError, match=rf"^{name}: is a file name; a subject is the name of a person.*track it first"
        ):
            subjects.refuse_stranger(name)
    load_config([{}]).subjects.refuse_stranger("anybody")  # jobs of a run are told no lists


def test_a_dump_is_a_config() -> None:
    config = load_config([ROOT / "config.yaml", ROOT / "profiles/demo/demo.yaml"])
    without_url = config.capture.model_copy(update={"url": None})  # it may be a secret
    dumped = config.model_copy(update={"capture": without_url})
    again = load_config([json.loads(config.model_dump_json(exclude_defaults=True))])
    assert again == dumped
    assert Config.model_validate_json(config.model_dump_json()) == dumped


_trees = st.recursive(st.integers(), lambda t: st.dictionaries(st.sampled_from("abc"), t, max_size=3), max_leaves=8)
_maps = st.dictionaries(st.sampled_from("abc"), _trees, max_size=3)


@given(_maps, _maps, _maps)
def test_merging_is_associative_and_keeps_its_arguments(a: dict, b: dict, c: dict) -> None:
    before = json.dumps([a, b, c])
    assert deep_merge(a, {}) == a
    assert deep_merge(a, a) == a
    if _compatible(a, b) and _compatible(b, c) and _compatible(a, c):
        assert deep_merge(deep_merge(a, b), c) == deep_merge(a, deep_merge(b, c))
    assert json.dumps([a, b, c]) == before


def _compatible(a: object, b: object) -> bool:
    """No key is a mapping in one and a value in the other."""
    if isinstance(a, dict) and isinstance(b, dict):
        return all(_compatible(a[k], b[k]) for k in a.keys() & b.keys())
    return not isinstance(a, dict) and not isinstance(b, dict)
