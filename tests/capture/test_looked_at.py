"""What an import and `osgap check` do with what they find: files, refusals, corrections, outliers."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from capture import breakage
from capture.exports import moving_pictures, write_pictures
from osgap.capture.config import CaptureConfig, SubjectEntry
from osgap.capture.correction_names import CORRECTIONS
from osgap.capture.importing.examination import examine
from osgap.capture.importing.stage import ImportInputs, ImportOutputs, run
from osgap.capture.sanity.findings import Findings, require_sound
from osgap.capture.sanity.overlay import shown_frames
from osgap.capture.sanity.samples import chosen_frames
from osgap.capture.store import CaptureStore
from osgap.capture.tracking.layouts import read_recording
from osgap.capture.tracking.recording import Footage, Pictures, Timestep
from osgap.capture.video import decode_few, keyframes
from osgap.cli import main
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.model import HeadModel
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.synthetic.captures import stage as person
from osgap.synthetic.config import SyntheticConfig
from osgap.synthetic.head.stage import HeadOutputs
from osgap.synthetic.head.stage import run as make_head

SUBJECT, SEQUENCE, TIMESTEPS = "7", "EXP-1-head", 4
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> HeadAssets:
    folder = tmp_path_factory.mktemp("head")
    make_head(HeadOutputs(folder))
    return HeadAssets(
        model=folder / "flame2023.pkl", masks=folder / "FLAME_masks.pkl", template=folder / "head_template_mesh.obj"
    )


@pytest.fixture(scope="module")
def export(assets: HeadAssets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracking of a synthetic person in one sequence."""
    folder = tmp_path_factory.mktemp("person")
    config = SyntheticConfig(width=88, height=128, timesteps_per_sequence=TIMESTEPS, samples_per_axis=2, seed=1)
    outputs = person.PersonOutputs(folder / "nersemble", folder / "tracking", folder / "7.json")
    person.run(config, assets, outputs, subject=SUBJECT, seed=5, sequences=[SEQUENCE])
    return folder / "tracking" / f"{SUBJECT}_{SEQUENCE}"


@pytest.fixture
def broken(export: Path, tmp_path: Path) -> Path:
    """A copy to be broken."""
    return breakage.copied(export, tmp_path / "tracking" / export.name)


@pytest.fixture
def do_import(tmp_path: Path, assets: HeadAssets) -> Callable[..., ImportOutputs]:
    """Run the stage; returns where its files are."""

    def call(tracking: Path, entry: SubjectEntry | None = None, **keys: Any) -> ImportOutputs:
        folder = tmp_path / "captures"
        outputs = ImportOutputs(folder / "7.h5", folder / "7.json", folder / "7.png")
        run(
            CaptureConfig(**keys), ImportInputs(tracking, head=assets), outputs,
            subject=SUBJECT, seed=0, entry=entry or SubjectEntry(),
        )  # fmt: skip
        return outputs

    return call


def centimetres(export: Path) -> None:
    def scaled(matrix: np.ndarray, _: int) -> np.ndarray:
        matrix[:3, 3] *= 100
        return matrix

    breakage.poses(export, scaled)


def names_in(folder: Path) -> set[str]:
    """What lies there, hidden files as well."""
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


# imports -----------------------------------------------------------------------------------------------------


def test_a_capture_that_is_right_has_a_sheet_and_numbers_beside_it(
    export: Path, do_import: Callable[..., ImportOutputs]
) -> None:
    outputs = do_import(export)
    assert names_in(outputs.capture.parent) == {"7.h5", "7.json", "7.png"}
    content = json.loads(outputs.findings.read_text())
    store = CaptureStore(outputs.capture)
    assert content["sound"]
    assert content["cause"] is None
    assert content["outliers"] == content["corrections"] == []
    assert [camera["name"] for camera in content["cameras"]] == store.serials
    assert [sequence["name"] for sequence in content["sequences"]] == [SEQUENCE]
    assert {(frame["sequence"], frame["timestep"]) for frame in content["frames"]} <= set(store.timesteps)
    assert {frame["camera"] for frame in content["frames"]} == set(store.serials)
    sheet = cv2.imread(str(outputs.sheet))
    assert sheet is not None
    assert sheet.shape[1] > 16 * 100
    for path in (outputs.capture, outputs.findings, outputs.sheet):
        provenance = read_provenance(path)
        assert provenance is not None
        assert (provenance["stage"], provenance["subject"]) == ("import", SUBJECT)
        assert {"corrections", "drop_outliers", "check"} <= set(provenance["config"])
        assert any("flame2023" in name for name in provenance["inputs"])


def test_two_imports_have_the_same_bytes(export: Path, do_import: Callable[..., ImportOutputs]) -> None:
    outputs = do_import(export)
    paths = (outputs.capture, outputs.findings, outputs.sheet)
    before = [path.read_bytes() for path in paths]
    do_import(export)
    assert [path.read_bytes() for path in paths] == before


def test_a_capture_that_cannot_be_right_stops_and_can_be_looked_at(
    export: Path, broken: Path, do_import: Callable[..., ImportOutputs]
) -> None:
    centimetres(broken)
    with pytest.raises(UserError, match=r"centimetres.*7\.refused\.png") as caught:
        do_import(broken)
    folder = broken.parents[1] / "captures"
    assert str(broken) in str(caught.value)
    assert names_in(folder) == {"7.refused.png", "7.refused.json"}
    refused = json.loads((folder / "7.refused.json").read_text())
    assert not refused["sound"]
    assert refused["correction"] == "centimetres"
    assert read_provenance(folder / "7.refused.png") is not None

    corrected = do_import(broken, corrections=["centimetres"])
    assert names_in(folder) == {"7.h5", "7.json", "7.png"}, "what was refused is gone"
    assert json.loads(corrected.findings.read_text())["corrections"] == ["centimetres"]
    mended = CaptureStore(corrected.capture).cameras.world_to_camera
    whole = CaptureStore(do_import(export).capture).cameras.world_to_camera
    np.testing.assert_allclose(mended.numpy(), whole.numpy(), atol=1e-5)


def test_a_refused_import_leaves_what_an_earlier_one_has_written(
    export: Path, broken: Path, do_import: Callable[..., ImportOutputs]
) -> None:
    outputs = do_import(export)
    paths = (outputs.capture, outputs.findings, outputs.sheet)
    before = [path.read_bytes() for path in paths]
    centimetres(broken)
    with pytest.raises(UserError, match=r"7\.refused\.png shows it\..* are of an earlier import and stay"):
        do_import(broken)
    assert [path.read_bytes() for path in paths] == before
    assert names_in(outputs.capture.parent) == {"7.h5", "7.json", "7.png", "7.refused.json", "7.refused.png"}


def test_what_an_earlier_import_refused_is_gone_when_a_file_is_broken(
    broken: Path, do_import: Callable[..., ImportOutputs]
) -> None:
    folder = broken.parents[1] / "captures"
    centimetres(broken)
    with pytest.raises(UserError, match="centimetres"):
        do_import(broken)
    assert names_in(folder) == {"7.refused.png", "7.refused.json"}
    missing("images", "00002_05")(broken)
    with pytest.raises(UserError, match=r"00002_05\.png: no such file"):
        do_import(broken)
    assert names_in(folder) == set()


@pytest.mark.parametrize(
    ("cause", "correction", "said"),
    [
        (
            "are they in centimetres?",
            "centimetres",
            'are they in centimetres? If that is so, set `capture: {corrections: ["',
        ),
        ("masks are empty. Make masks of the person.", None, "Make masks of the person.$"),
        ("are two coordinate systems mixed up?", None, r"mixed up\? Mend it in the export.$"),
    ],
)
def test_a_refusal_says_once_what_to_do(cause: str, correction: str | None, said: str) -> None:
    found = Findings("7", (), (), (), (0.0, 0.0, 0.0), 1.0, cause, correction, (), ())
    pattern = said if correction is None else re.escape(said)
    with pytest.raises(UserError, match=f"^tracking: the head does not stand where the images show it: .*{pattern}"):
        require_sound(found, Path("tracking"))


def test_an_import_loads_its_head_model_once(
    export: Path, do_import: Callable[..., ImportOutputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def counted(assets: HeadAssets) -> HeadModel:
        loaded.append(assets)
        return load_head(assets)

    monkeypatch.setattr("osgap.head.assets.load_head", counted)
    monkeypatch.setattr("osgap.capture.importing.stage.load_head", counted)
    do_import(export)
    assert len(loaded) == 1


def test_a_persons_own_corrections_win(broken: Path, do_import: Callable[..., ImportOutputs]) -> None:
    centimetres(broken)
    entry = SubjectEntry(corrections=["centimetres"])
    assert json.loads(do_import(broken, entry, corrections=["degrees"]).findings.read_text())["sound"]
    with pytest.raises(UserError, match="does not stand where the images show it"):
        do_import(broken, SubjectEntry(corrections=[]), corrections=["centimetres"])


def test_who_knows_better_may_import_it(
    broken: Path, do_import: Callable[..., ImportOutputs], caplog: pytest.LogCaptureFixture
) -> None:
    centimetres(broken)
    with pytest.raises(UserError):
        do_import(broken)
    outputs = do_import(broken, check="warn")
    assert names_in(outputs.capture.parent) == {"7.h5", "7.json", "7.png"}
    assert not json.loads(outputs.findings.read_text())["sound"]
    assert "7: the head does not stand where the images show it" in caplog.text


def test_a_broken_file_that_was_not_looked_at_leaves_nothing(
    broken: Path, do_import: Callable[..., ImportOutputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found after the look, when all is written."""
    monkeypatch.setattr("osgap.capture.importing.examination.chosen_frames", shown_frames)
    image = broken / "images" / "00001_03.png"
    content = image.read_bytes()
    image.unlink()
    image.write_bytes(content[:-30])
    with pytest.raises(UserError, match=r"00001_03\.png"):
        do_import(broken, check="warn")
    assert names_in(broken.parents[1] / "captures") == set()


def test_outliers_are_named_and_left_out_if_asked(
    broken: Path, do_import: Callable[..., ImportOutputs], caplog: pytest.LogCaptureFixture
) -> None:
    mask = broken / "fg_masks" / "00001_03.png"
    pixels = cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None
    mask.unlink()
    cv2.imwrite(str(mask), 255 - pixels)
    for dropped in (False, True):
        caplog.clear()
        outputs = do_import(broken, drop_outliers=dropped)
        content, store = json.loads(outputs.findings.read_text()), CaptureStore(outputs.capture)
        bad = {"sequence": SEQUENCE, "timestep": 1, "camera": store.serials[3]}
        assert content["outliers"] == [bad]
        assert content["outliers_dropped"] == dropped
        assert ((SEQUENCE, 1) in store.timesteps) != dropped
        assert f"outliers: {SEQUENCE} timestep 1 camera {store.serials[3]}: " in caplog.text
        assert caplog.text.count(f"camera {store.serials[3]}") == 1
        assert "doubtful" not in caplog.text
        assert ("capture.drop_outliers" in caplog.text) != dropped


def test_what_was_assumed_is_said_once(export: Path, assets: HeadAssets, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    notes = ("no static_offset: zero", "dynamic_offset is left out")
    recording = read_recording(export, CaptureConfig(), SUBJECT, SubjectEntry(), assets=assets)
    examination = examine(replace(recording, notes=notes), load_head(assets), SUBJECT)
    examination.say()
    assert examination.content()["notes"] == list(notes)
    for note in notes:
        assert caplog.text.count(note) == 1


def turned(data: bytes) -> bytes:
    """With EXIF's orientation 6: to be turned by 90 degrees."""
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, 6, 0, 0)
    chunk = b"eXIf" + tiff
    return data[:33] + struct.pack(">I", len(tiff)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


def rewritten(kind: str, change: Callable[[bytes], bytes], which: str = "*") -> Callable[[Path], None]:
    def apply(export: Path) -> None:
        for path in (export / kind).glob(f"{which}.png"):
            content = change(path.read_bytes())
            path.unlink()
            path.write_bytes(content)

    return apply


def each_pixel(kind: str, change: Callable[[np.ndarray], np.ndarray], which: str = "*") -> Callable[[Path], None]:
    return lambda export: breakage.pictures(export, change, (kind,), which)


def missing(kind: str, which: str = "*") -> Callable[[Path], None]:
    def apply(export: Path) -> None:
        for path in (export / kind).glob(f"{which}.png"):
            path.unlink()

    return apply


def nothing_named(export: Path) -> None:
    breakage.records(export, lambda frame: frame.update(fg_mask_path="fg_masks/none.png"))
    for path in (export / "images").iterdir():
        path.unlink()
        cv2.imwrite(str(path), np.full((128, 88, 4), 200, np.uint8))


BROKEN_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "turned by EXIF": (rewritten("images", turned), r"images/\d+_\d+\.png: .*EXIF"),
    "truncated": (rewritten("images", lambda data: data[: len(data) // 20]), r"images/\d+_\d+\.png: truncated"),
    "one truncated": (
        rewritten("images", lambda data: data[: len(data) // 20], "00001_03"), r"images/00001_03\.png: truncated"
    ),
    "masks of 0 and 1": (
        each_pixel("fg_masks", lambda mask: (mask > 127).astype(np.uint8)), r"fg_masks/.*: .*multiply them by 255"
    ),
    "RGB masks": (each_pixel("fg_masks", lambda mask: np.dstack([mask] * 3)), r"fg_masks/.*: a 8-bit rgb image"),
    "deep masks": (
        each_pixel("fg_masks", lambda mask: mask.astype(np.uint16) * 257), r"fg_masks/.*: a 16-bit grey image"
    ),
    "half the size": (each_pixel("images", lambda image: image[::2, ::2]), r"images/.*: 44x64 pixels, .* has 88x128"),
    "an image is missing": (missing("images", "00002_05"), r"images/00002_05\.png: no such file"),
    "no images": (missing("images"), r"none of its images is there.*frames: videos"),
    "a mask is missing": (missing("fg_masks", "00002_05"), r"fg_masks/00002_05\.png: (no such file|has neither)"),
    "masks that are not there": (nothing_named, r"fg_masks/none\.png: no such file"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_broken_files_are_named_by_imports_and_checks(
    broken: Path,
    do_import: Callable[..., ImportOutputs],
    check: Callable[..., tuple[int, str]],
    case: str,
) -> None:
    """And no head beside its images is looked for, nor anything written."""
    damage, said = BROKEN_FILES[case]
    damage(broken)
    with pytest.raises(UserError, match=said):
        do_import(broken)
    assert names_in(broken.parents[1] / "captures") == set()
    before = names_in(broken.parents[1])
    status, told = check(broken)
    assert status == UserError.EXIT_CODE
    assert re.search(said, told)
    assert names_in(broken.parents[1]) == before


@pytest.mark.parametrize("named", [False, True])
def test_images_without_masks_are_refused_before_any_is_decoded(
    broken: Path, do_import: Callable[..., ImportOutputs], named: bool
) -> None:
    for path in (broken / "fg_masks").iterdir():
        path.unlink()
    if not named:
        breakage.records(broken, lambda frame: frame.pop("fg_mask_path", None))
    for path in (broken / "images").iterdir():
        head = path.read_bytes()[:40]
        path.unlink()
        path.write_bytes(head)
    with pytest.raises(UserError, match=r"00000_00\.png: has neither a mask .* one of 64 .*RobustVideoMatting"):
        do_import(broken)
    assert names_in(broken.parents[1] / "captures") == set()


def test_each_video_is_decoded_once_and_says_what_images_say(
    export: Path, assets: HeadAssets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording, head = read_recording(export, CaptureConfig(), SUBJECT, SubjectEntry(), assets=assets), load_head(assets)
    assert isinstance(recording.frames, Pictures)
    rows = sorted(range(TIMESTEPS), key=lambda t: recording.timesteps[t].index)
    footage = []
    for camera, serial in enumerate(recording.serials):
        pictures = [cv2.imread(str(recording.frames.images[t][camera]))[..., ::-1] for t in rows]  # type: ignore[index]
        video = write_pictures(tmp_path / f"{serial}.mp4", [np.ascontiguousarray(picture) for picture in pictures])
        masks = [mask for t in rows if (mask := recording.frames.masks[t][camera])]
        footage.append(Footage(video, camera, rows, list(range(TIMESTEPS)), masks))
    decoded: list[Path] = []

    def counted(path: Path, *rest: Any) -> Any:
        decoded.append(path)
        return decode_few(path, *rest)

    monkeypatch.setattr("osgap.capture.video.decode_few", counted)
    of_images = examine(recording, head, SUBJECT)
    assert decoded == []
    of_videos = examine(replace(recording, frames=footage), head, SUBJECT)
    assert decoded == [each.video for each in footage]
    assert of_videos.findings == of_images.findings
    assert (of_videos.sheet == of_images.sheet).all()


@pytest.mark.parametrize(("gop", "last"), [(1000, (17, 20)), (12, (55, 60)), (1, (59, 60))])
def test_what_is_decoded_of_a_video_is_bounded(
    export: Path, assets: HeadAssets, tmp_path: Path, gop: int, last: tuple[int, int]
) -> None:
    """Moments are chosen soon after keyframes; where the first frame is the only one, early in the video."""
    recording = read_recording(export, CaptureConfig(), SUBJECT, SubjectEntry(), assets=assets)
    first, count = 2, 60
    pictures = moving_pictures(np.random.default_rng(0), first + count, 32, 48)
    video = write_pictures(tmp_path / "video.mp4", pictures, gop=gop)
    numbers = list(range(first, first + count))
    long = replace(
        recording,
        timesteps=[Timestep(SEQUENCE, number) for number in numbers],
        params=recording.params.select([0] * count),
        frames=[Footage(video, camera, list(range(count)), numbers, video) for camera in range(16)],
    )
    keys = np.array([max(key, first) for key in keyframes(video)])
    assert len(keys) == -(-(first + count) // gop)
    rows = sorted({t for t, _ in chosen_frames(long)})
    assert rows[0] == 0
    assert last[0] <= rows[-1] + 1 <= last[1]
    assert len(rows) >= 5
    assert {t for t, _ in shown_frames(long)} <= set(range(last[1]))
    shown = sorted({*rows, *(t for t, _ in shown_frames(long))})
    decoded = {frame for row in shown for frame in range(keys[keys <= numbers[row]][-1], numbers[row] + 1)}
    assert len(decoded) <= 0.36 * count or gop == 1


def test_the_benchmark_of_the_look_runs(export: Path, assets: HeadAssets) -> None:
    script = ROOT / "benchmarks" / "importing.py"
    options = ["--look", str(export), "--head", *map(str, assets.files), "--repeat", "1"]
    larger = ["--enlarged", "--width", "110", "--height", "160"]
    done = subprocess.run([sys.executable, str(script), *options, *larger], check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert told["sound"]
    assert told["looked_at"] == TIMESTEPS * 16
    assert 0 < told["look_cpu_seconds"] < 60


# osgap check -------------------------------------------------------------------------------------------------


@pytest.fixture
def check(
    assets: HeadAssets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run the command; returns its status and what it prints, or the error."""
    monkeypatch.chdir(tmp_path)

    def call(export: Path, *arguments: str) -> tuple[int, str]:
        head = ["--head", *map(str, assets.files)]
        monkeypatch.setattr(sys, "argv", ["osgap", "check", str(export), *head, *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out or printed.err

    return call


def test_a_check_says_what_an_import_would(broken: Path, check: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    status, said = check(broken)
    assert status == 0
    assert "The head stands where the images show it" in said
    name = broken.name
    assert {f"{name}.check.png", f"{name}.check.json"} <= names_in(tmp_path)

    centimetres(broken)
    status, said = check(broken, "--out", "looked", "--name", "somebody")
    assert status == 1
    assert "centimetres" in said
    assert names_in(tmp_path / "looked") == {"somebody.check.png", "somebody.check.json"}

    status, said = check(broken, "--json")
    content = json.loads(said)
    assert status == 1
    assert content["correction"] == "centimetres"
    written = json.loads((tmp_path / f"{name}.check.json").read_text())
    assert {key: value for key, value in written.items() if key != "provenance"} == content

    status, said = check(broken, "--set", "capture.corrections=[centimetres]")
    assert status == 0
    assert "Corrected" in said


def test_an_export_for_raw_videos_needs_no_images(
    broken: Path, check: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    missing("images")(broken)
    status, said = check(broken, "--set", "capture.frames=videos")
    assert status == 0
    assert "only masks are looked at" in said
    content = json.loads((tmp_path / f"{broken.name}.check.json").read_text())
    assert {frame["likeness"] for frame in content["frames"]} == {None}
    assert content["outliers"] == []

    centimetres(broken)
    status, said = check(broken, "--set", "capture.frames=videos")
    assert status == 1
    assert "centimetres" in said


# names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["centimeters"], r"did you mean 'centimetres'\?"),
        (["intrinsics_of"], r"did you mean 'intrinsics_of:WxH'\?"),
        (["intrinsics_of:88"], "a width and a height"),
        (["nonsense!"], "known are"),
        (["degrees", "degrees"], "more than once"),
        (["world_axes:x,y,-z"], "no right-handed axes"),
    ],
)
def test_names_of_corrections_are_checked_with_the_config(names: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CaptureConfig(corrections=names)
    with pytest.raises(ValueError, match=said):
        SubjectEntry(corrections=names)


def test_the_documentation_lists_every_correction() -> None:
    text = (ROOT / "docs" / "data.md").read_text()
    for name in CORRECTIONS:
        assert f"`{name}`" in text, name
