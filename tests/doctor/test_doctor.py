"""The doctor measures this machine and a config, says what fixes each thing that is missing, and tells no secret."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from osgap.capture.config import URL_VARIABLE
from osgap.doctor import Finding, Report, examine, machine, run, show, to_json
from osgap.operations.space import existing_folder, space_needed
from osgap.runtime import slurm
from osgap.workflow.config import load_config
from osgap.workflow.pipeline import Pipeline

ROOT = Path(__file__).parents[2]
SECRET = "http://127.0.0.1:9/secret-token-7391"
MACHINE = ["python", "torch", "gpu", "gsplat", "cores", "memory", "video", "snakemake", "slurm"]
CONFIG = [
    "config",
    "subjects",
    "head model",
    "data URL",
    "tracking",
    "evaluation.lpips.alex",
    "evaluation.lpips.vgg",
    "disk",
]


@pytest.fixture(autouse=True)
def no_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not this machine has Slurm: `test_cluster.py` is about it."""
    monkeypatch.setattr(slurm, "expected", lambda: False)


def find(report: Report, name: str) -> Finding:
    (finding,) = (finding for finding in report.findings if finding.name == name)
    return finding


def screen(report: Report, width: int = 100) -> str:
    text = io.StringIO()
    show(report, Console(file=text, width=width))
    return text.getvalue()


def inline(content: dict[str, Any]) -> str:
    return json.dumps(content)


def synthetic(tmp_path: Path, **changes: Any) -> str:
    demo = yaml.safe_load((ROOT / "profiles/demo/demo.yaml").read_text())
    data = {key: demo[key] for key in ("synthetic", "flame", "capture")}
    subjects = {"train": ["1"], "test": ["2"]}
    return inline({"results": str(tmp_path / "results"), "subjects": subjects} | data | changes)


def real(tmp_path: Path, **changes: Any) -> str:
    subjects = {"train": ["017"], "test": ["024"]}
    return inline({"results": str(tmp_path), "subjects": subjects, "capture": {"download": False}} | changes)


# whole reports -------------------------------------------------------------------------------------------------


def test_the_demo_is_ready(tmp_path: Path) -> None:
    demo = ROOT / "profiles/demo/demo.yaml"
    start = time.process_time()
    report = examine([str(ROOT / "config.yaml"), str(demo)], [f"results={tmp_path}"])
    assert time.process_time() - start < 10
    assert [finding.name for finding in report.findings] == MACHINE + CONFIG
    assert report.ready, screen(report)
    for name in ("head model", "data URL", "tracking"):
        assert "nothing licensed is needed" in find(report, name).found
    assert find(report, "gpu").status == "ok"  # the CPU is all that the demo needs
    assert "Ready." in screen(report)


def test_the_full_run_lacks_what_is_licensed(tmp_path: Path) -> None:
    report = examine([str(ROOT / "config.yaml")], [f"results={tmp_path}"])
    assert not report.ready
    missing = {finding.name: finding.fix for finding in report.findings if finding.status == "missing"}
    assert {"head model", "data URL", "tracking"} <= missing.keys() <= {"head model", "data URL", "tracking", "disk"}
    assert "flame: {assets:" in missing["head model"]
    assert URL_VARIABLE in missing["data URL"]
    assert "forms" in missing["data URL"]  # where to ask for access
    assert "capture.tracking" in missing["tracking"]
    assert find(report, "tracking").found == "0 of 9 subjects; missing: 074, 104, 218, 253, 264 and 4 more"
    shown = screen(report)
    assert "Not ready: " in shown
    assert "→ Register at flame" in shown


def test_synthetic_people_under_another_name_are_missing(tmp_path: Path) -> None:
    found = find(examine([synthetic(tmp_path)], ["capture.tracking=elsewhere/{subject}"]), "subjects")
    assert found.status == "missing"
    assert "found elsewhere/1" in found.found


def test_json_has_a_fixed_schema(tmp_path: Path) -> None:
    report = examine([synthetic(tmp_path)])
    content = report.as_dict()
    assert json.loads(to_json(report)) == content
    assert list(content) == ["ready", "findings"]
    assert content["ready"] is True
    for finding in content["findings"]:
        assert list(finding) == ["about", "name", "status", "found", "fix"]
        assert all(isinstance(value, str) for value in finding.values())
        assert finding["status"] in ("ok", "warning", "missing")
        assert finding["found"]
        assert bool(finding["fix"]) == (finding["status"] != "ok"), finding  # no advice but where some is needed


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{fit: {iteratons: 3}}", "did you mean `iterations`"),
        ("{fit: {iterations: -3}}", "greater than or equal to 1"),
        ("{fit: [", "not valid YAML"),
        ("no-such.yaml", "no such config file"),
        ("{subjects: {train: [17]}}", "write it in quotes"),
    ],
)
def test_a_broken_config_is_a_finding(config: str, said: str) -> None:
    report = examine([config])
    assert [finding.name for finding in report.findings] == [*MACHINE, "config"]
    found = find(report, "config")
    assert found.status == "missing"
    assert said in found.found
    assert not report.ready


@pytest.mark.parametrize("override", ["fit.iterations", "fit.iterations=[", "=3"])
def test_a_broken_override_is_a_finding(tmp_path: Path, override: str) -> None:
    assert find(examine([synthetic(tmp_path)], [override]), "config").status == "missing"


@pytest.mark.parametrize(("config", "code"), [("profiles/demo/demo.yaml", 0), ("config.yaml", 1)])
def test_the_command_says_ready_by_its_exit_code(tmp_path: Path, config: str, code: int) -> None:
    arguments = ["doctor", "--json", "--config", str(ROOT / config), "--set", f"results={tmp_path}"]
    ended = subprocess.run(
        [sys.executable, "-m", "osgap.cli", *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert ended.returncode == code, ended.stderr
    assert ended.stderr == ""
    assert json.loads(ended.stdout)["ready"] is (code == 0)


def test_one_screen_with_400_people(tmp_path: Path) -> None:
    names = [f"{number:03d}" for number in range(1, 401)]
    for name in names:
        if name not in ("017", "123"):
            (tmp_path / "tracking" / name).mkdir(parents=True)
            (tmp_path / "tracking" / name / "transforms.json").write_text("{}")
    capture = {"download": False, "tracking": str(tmp_path / "tracking" / "{subject}")}
    subjects = {"train": names[:390], "test": names[390:]}
    start = time.process_time()
    report = examine([real(tmp_path, subjects=subjects, capture=capture)])
    assert time.process_time() - start < 10
    assert find(report, "tracking").found == "398 of 400 subjects; missing: 017, 123"
    assert "017" in find(report, "tracking").fix
    assert len(screen(report).splitlines()) <= 40


def test_paths_with_brackets_are_shown_as_they_are() -> None:
    report = Report([Finding("config", "disk", "missing", "/data/[bold]x[/bold] is full", "Free /data/[red].")])
    assert "/data/[bold]x[/bold] is full" in screen(report)
    assert "→ Free /data/[red]." in screen(report)


# the secret ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        '{"capture": {"url": "SECRET"}}',
        "{capture: {url: 'SECRET'",  # YAML's message quotes the line
        '{capture: {urll: "SECRET"}}',
        '{capture: {url: {a: "SECRET"}}}',
        "{}",
    ],
)
@pytest.mark.parametrize("place", ["config", "environment"])
def test_the_data_url_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, place: str) -> None:
    if place == "environment":
        monkeypatch.setenv(URL_VARIABLE, SECRET)
    overrides = [f"capture.url={SECRET}"] if place == "config" else []
    report = examine([config.replace("SECRET", SECRET)], overrides)
    for text in (json.dumps(report.as_dict()), screen(report, 500), repr(report)):
        assert "secret-token-7391" not in text
        assert "127.0.0.1" not in text


def test_a_url_that_does_not_answer_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL_VARIABLE, SECRET)
    found = find(examine([real(tmp_path, capture={"download": True})]), "data URL")
    assert found.status == "missing"
    assert found.found.startswith(f"set in the environment ({URL_VARIABLE}), but it does not answer")
    assert found.fix


def test_a_tree_on_disk_is_reachable(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "metadata_sequences.csv").write_text("ID\n17\n24\n")
    report = examine([real(tmp_path, capture={"url": (tmp_path / "tree").as_uri()})])
    assert find(report, "data URL").status == "ok"
    assert find(report, "data URL").found == "set in the config (capture.url), and reachable"


# the head model --------------------------------------------------------------------------------------------------


def flame_assets(folder: Path, model: str = "flame2023.pkl") -> dict[str, Any]:
    return {
        "assets": {
            "model": str(folder / model),
            "masks": str(folder / "FLAME_masks.pkl"),
            "template": str(folder / "head_template_mesh.obj"),
        }
    }


def test_flame_is_read_and_its_version_said(fake_flame: Path, tmp_path: Path) -> None:
    found = find(examine([real(tmp_path, flame=flame_assets(fake_flame))]), "head model")
    assert found.status == "ok"
    assert re.fullmatch(
        r"FLAME 2023 by its name, edition [0-9a-f]{16}, readable; no published checksum for its model, masks, "
        r"template; licence, if it is that, non-commercial research only \(FLAME's academic licence, "
        r"flame\.is\.tue\.mpg\.de/modellicense\.html\)",
        found.found,
    ), found.found


def test_the_open_edition_has_another_licence(fake_flame: Path, tmp_path: Path) -> None:
    for file in fake_flame.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "flame2023.pkl").rename(tmp_path / "flame2023_Open.pkl")
    found = find(examine([real(tmp_path, flame=flame_assets(tmp_path, "flame2023_Open.pkl"))]), "head model")
    assert found.found.startswith("FLAME 2023 Open by its name")
    assert "CC BY 4.0" in found.found


def test_flame_without_a_jaw_is_a_warning(fake_flame: Path, tmp_path: Path) -> None:
    for file in fake_flame.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "flame2023.pkl").rename(tmp_path / "flame2023_no_jaw.pkl")
    report = examine([real(tmp_path, flame=flame_assets(tmp_path, "flame2023_no_jaw.pkl"))])
    assert find(report, "head model").status == "warning"


def test_a_model_of_another_topology_is_named(small_files: Any, tmp_path: Path) -> None:
    assets = small_files.write(tmp_path)
    flame = {"assets": {key: str(getattr(assets, key)) for key in ("model", "masks", "template")}}
    found = find(examine([real(tmp_path, flame=flame)]), "head model")
    assert (found.status, "not FLAME's (48 vertices" in found.found) == ("ok", True)


@pytest.mark.parametrize("spoil", ["absent", "a web page", "code"])
def test_unusable_flame_files_are_missing(fake_flame: Path, tmp_path: Path, spoil: str) -> None:
    for file in fake_flame.iterdir():
        shutil.copy(file, tmp_path)
    model = tmp_path / "flame2023.pkl"
    model.unlink()
    if spoil != "absent":
        model.write_bytes({"a web page": b"<html>", "code": b"cposix\nsystem\n(S'true'\ntR."}[spoil])
    found = find(examine([real(tmp_path, flame=flame_assets(tmp_path))]), "head model")
    assert found.status == "missing"
    assert str(model) in found.found
    assert found.fix


# weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "digest", "status", "said"),
    [
        (b"weights", hashlib.sha256(b"weights").hexdigest(), "ok", "checksum as configured"),
        (b"weights", hashlib.sha256(b"weights").hexdigest()[:8], "ok", "checksum as configured"),
        (b"truncated", hashlib.sha256(b"weights").hexdigest(), "missing", "has SHA-256"),
        (None, "00000000", "missing", "no such file"),
    ],
)
def test_weights_are_checked(tmp_path: Path, content: bytes | None, digest: str, status: str, said: str) -> None:
    if content is not None:
        (tmp_path / "weights.pth").write_bytes(content)
    file = {"path": str(tmp_path / "weights.pth"), "sha256": digest}
    report = examine([synthetic(tmp_path, evaluation={"lpips": {"alex": file}}, prior={"weights": file, "vgg": file})])
    for name in ("evaluation.lpips.alex", "prior.weights", "prior.vgg"):
        assert find(report, name).status == status
        assert said in find(report, name).found


def test_huge_weights_are_not_hashed_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.pt"
    with path.open("wb") as file:
        file.truncate(3_000_000_000)  # sparse: takes no disk
    monkeypatch.setattr(run, "file_digest", lambda path: pytest.fail(f"{path} is read"))
    weights = {"path": str(path), "sha256": "00000000"}
    found = find(examine([synthetic(tmp_path, prior={"weights": weights})]), "prior.weights")
    assert found.status == "warning"
    assert "3.0 GB: too large" in found.found
    assert "sha256sum" in found.fix


# disk ------------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_missing_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12 - 10**6, 10**6))
    report = examine([synthetic(tmp_path)])
    found = find(report, "disk")
    assert found.status == "missing"
    assert found.found.startswith("1 MB free")
    assert not report.ready


def test_space_counts_what_is_not_there_yet(tmp_path: Path) -> None:
    pipeline = Pipeline(load_config([real(tmp_path, capture={"url": "https://x", "serials": ["222200037"]})]))
    before = space_needed(pipeline)
    videos = 2 * len(pipeline.sequences("017"))
    assert before["raw videos"] == pytest.approx(videos * 8.73e6, rel=0.01)
    video = pipeline.layout.raw / "017" / "sequences" / "EXP-2-eyes" / "images" / "cam_222200037.mp4"
    video.parent.mkdir(parents=True)
    video.write_bytes(b"")
    pipeline.layout.capture("017").parent.mkdir(parents=True)
    pipeline.layout.capture("017").write_bytes(b"")
    after = space_needed(pipeline)
    assert after["raw videos"] == pytest.approx((videos - 1) * 8.73e6, rel=0.01)
    assert after["captures"] == pytest.approx(before["captures"] / 2)
    assert after["prior"] == pytest.approx(80.2e6 * 4 * 9, rel=0.01)  # the full encoder's parameters


def test_of_synthetic_people_the_copies_count_that_are_not_made(tmp_path: Path) -> None:
    pipeline = Pipeline(load_config([synthetic(tmp_path)]))
    before = space_needed(pipeline)["raw videos"]
    first, *others = pipeline.config.subjects.all
    manifest = pipeline.layout.download(first)
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    assert space_needed(pipeline)["raw videos"] == pytest.approx(before * len(others) / (1 + len(others)))


def test_subjects_without_a_participant_number_do_not_end_the_examination(tmp_path: Path) -> None:
    report = examine([real(tmp_path, subjects={"train": ["anna"], "test": ["bert"]}, capture={"url": SECRET})])
    assert find(report, "subjects").status == "missing"
    assert "anna" in find(report, "subjects").found
    assert find(report, "disk").status == "ok"


def test_the_folder_that_exists_is_measured(tmp_path: Path) -> None:
    assert existing_folder(tmp_path / "a" / "b") == tmp_path


# the machine -----------------------------------------------------------------------------------------------------


def test_the_machine_is_measured(tmp_path: Path) -> None:
    report = examine([synthetic(tmp_path)])
    assert ".".join(map(str, sys.version_info[:3])) in find(report, "python").found
    assert torch.__version__ in find(report, "torch").found
    if not torch.cuda.is_available():
        assert "CPU" in find(report, "gpu").found or "cannot use it" in find(report, "gpu").found
    assert find(report, "cores").found.startswith(str(len(os.sched_getaffinity(0))))
    assert find(report, "video").found.endswith("decodes h264 and hevc")
    assert ("sbatch found" in find(report, "slurm").found) == (shutil.which("sbatch") is not None)


def test_training_on_a_gpu_that_is_not_there_is_missing(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    report = examine([synthetic(tmp_path, accelerator="cuda")])
    assert find(report, "gpu").status == "missing"
    assert "set accelerator to auto" in find(report, "gpu").fix
    assert find(examine([real(tmp_path)]), "gpu").status == "warning"


def test_a_gpu_that_torch_cannot_use_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("torch can use the GPU")
    monkeypatch.setattr(machine, "describe_driver", lambda: ("NVIDIA Old", "390.10"))
    found = find(examine([synthetic(tmp_path)]), "gpu")
    assert found.status == "warning"
    assert found.found == "NVIDIA Old with driver 390.10, but torch cannot use it"
    assert "CUDA" in found.fix


@pytest.mark.parametrize("compiled", ["in the cache", "in the wheel", "not, with nvcc", "not, without nvcc"])
def test_gsplat_compiled_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: str) -> None:
    package = tmp_path / "site" / "gsplat"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the doctor must not import it')\n")
    info = tmp_path / "site" / "gsplat-1.5.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gsplat\nVersion: 1.5.3\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    expected = {
        "in the cache": ("ok", "1.5.3, compiled: ~/extensions/py311_cu132/gsplat_cuda/gsplat_cuda.so"),
        "in the wheel": ("ok", "1.5.3, compiled: ~/site/gsplat/csrc.cpython-311.so"),
        "not, with nvcc": ("ok", "1.5.3, compiles at its first use with ~/cuda/bin/nvcc"),
        "not, without nvcc": ("warning", "1.5.3, not compiled, and no nvcc to compile it with"),
    }[compiled]
    for name, path in (
        ("in the cache", tmp_path / "extensions/py311_cu132/gsplat_cuda/gsplat_cuda.so"),
        ("in the wheel", package / "csrc.cpython-311.so"),
        ("not, with nvcc", tmp_path / "cuda/bin/nvcc"),
    ):
        if compiled == name:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setattr(machine, "_TOOLKIT", str(tmp_path / "no toolkit"))  # this machine may have one
    monkeypatch.setattr(machine, "describe_driver", lambda: ("NVIDIA H200", "580.159"))
    found = machine._gsplat()
    assert (found.status, found.found) == expected
    if compiled == "not, without nvcc":
        monkeypatch.setattr(machine, "describe_driver", lambda: None)
        assert machine._gsplat().found == "1.5.3, for machines with an NVIDIA GPU"


def test_a_decoder_that_is_not_there_is_said() -> None:
    import av

    assert machine._cannot_decode(av, "h264") == ""
    assert machine._cannot_decode(av, "hevc") == ""
    assert "no decoder" in machine._cannot_decode(av, "no-such-codec")


@pytest.mark.parametrize("version", [1, 2])
def test_the_memory_limit_of_a_container_counts(tmp_path: Path, version: int) -> None:
    """Control groups as the kernel shows them, with a limit on the parent of the process's own."""
    own = tmp_path / "cgroup"
    if version == 1:
        own.write_text("9:name=systemd:/\n4:memory:/job/step\n0::/\n")
        parent, names = tmp_path / "fs" / "memory" / "job", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        unlimited = "9223372036854771712"
    else:
        own.write_text("0::/job/step\n")
        parent, names = tmp_path / "fs" / "job", ("memory.max", "memory.current")
        unlimited = "max"
    (parent / "step").mkdir(parents=True)
    for folder, limit in ((parent, "3000"), (parent / "step", unlimited)):
        (folder / names[0]).write_text(limit + "\n")
        (folder / names[1]).write_text("1000\n")
    assert machine._cgroup_room(tmp_path / "fs", own) == 2000
    (parent / names[0]).write_text(unlimited)
    assert machine._cgroup_room(tmp_path / "fs", own) is None


def test_importing_the_doctor_is_light() -> None:
    code = "import sys, osgap.doctor; sys.exit(any(m in sys.modules for m in ('torch', 'av', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
