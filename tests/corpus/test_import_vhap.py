"""Broken tracking exports in VHAP's layout, of one sequence and as a union."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from corpus.damage import HTML, Runs, copy_of, cut, dangling_link_in_place_of, delete, folder_in_place_of, write
from corpus.harness import Case, World, cases
from corpus.limits import bound_by_permissions, full_disk
from corpus.world import EXPORT, HEIGHT, STORE, SUBJECT, UNION, UNPOSED, VERTICES, WIDTH, mask, npz, picture, png
from osgap.head.params import MOTION_WIDTHS

SHEET = STORE.replace(".h5", ".png")
TABLE = f"{EXPORT}/transforms.json"
IMAGE, MASK = f"{EXPORT}/images/00002_01.png", f"{EXPORT}/fg_masks/00002_01.png"
FLAME = f"{EXPORT}/flame_param/00002.npz"
FIRST_IMAGE, FIRST_FLAME = f"{EXPORT}/images/00000_00.png", f"{EXPORT}/flame_param/00000.npz"
NUMBER = 7  # of that frame in the table
ANEW = r"[Ee]xport (it|the tracking|the masks)?"


Frames = list[dict[str, Any]]


# breaking the table ------------------------------------------------------------------------------------------


def frames(change: Callable[[Frames], object], path: str = TABLE) -> Callable[[World], object]:
    """Change the frames of a transforms file in place."""

    def damage(world: World) -> None:
        content = json.loads((world / path).read_text())
        change(content["frames"])
        (world / path).write_text(json.dumps(content))

    return damage


def frame_with(path: str = TABLE, number: int = NUMBER, **changes: Any) -> Callable[[World], object]:
    """Change (None: remove) keys of one frame."""

    def change(listed: Frames) -> None:
        listed[number].update(changes)
        for key in [key for key, value in listed[number].items() if value is None]:
            del listed[number][key]

    return frames(change, path)


def all_with(**changes: Any) -> Callable[[World], object]:
    return frames(lambda listed: [frame.update(changes) for frame in listed])


def pose_with(row: int, column: int, value: float, number: int = NUMBER) -> Callable[[World], object]:
    def change(listed: Frames) -> None:
        listed[number]["transform_matrix"][row][column] = value

    return frames(change)


def scaled_pose(listed: Frames) -> None:
    for frame in listed[1::3]:
        frame["transform_matrix"][0] = [2 * value for value in frame["transform_matrix"][0]]


def mirrored_pose(listed: Frames) -> None:
    for frame in listed[1::3]:
        for row in frame["transform_matrix"][:3]:
            row[0] = -row[0]


def twin_serials(listed: Frames) -> None:
    for frame in listed:
        frame["camera_id"] = listed[0]["camera_id"] if frame["camera_index"] == 2 else frame["camera_id"]


def as_latin1(world: World) -> None:
    """Written by a program of another age, in a folder with an umlaut."""
    text = (world / TABLE).read_text().replace("images/00000_00.png", "images/Müller_00.png")
    (world / TABLE).write_bytes(text.encode("latin-1"))


def key_twice(world: World) -> None:
    text = (world / TABLE).read_text()
    (world / TABLE).write_text(text.replace('"camera_index": 1', '"camera_index": 1, "camera_index": 2', 1))


# breaking pictures -------------------------------------------------------------------------------------------


def encoded(suffix: str, pixels: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(suffix, pixels, options)[1].tobytes()


def palette() -> bytes:
    """A PNG of 16 colours, as graphics programs save small pictures."""
    rows = b"".join(b"\0" + bytes(WIDTH) for _ in range(HEIGHT))
    return _png(8, 3, rows, chunk(b"PLTE", bytes(range(48))))


def bomb() -> bytes:
    """A PNG that says that it has 60,000 x 60,000 pixels."""
    return _png(8, 2, bytes(9999), size=(60000, 60000))


def _png(bits: int, color: int, rows: bytes, extra: bytes = b"", size: tuple[int, int] = (WIDTH, HEIGHT)) -> bytes:
    header = struct.pack(">IIBBBBB", *size, bits, color, 0, 0, 0)
    data = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def turned(orientation: int, mode: str = "RGB") -> bytes:
    """An image that its EXIF tag has shown another way."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.new(mode, (WIDTH, HEIGHT), "white").save(file, "JPEG", exif=exif)
    return file.getvalue()


def cmyk() -> bytes:
    """A JPEG with four channels, as print shops send them."""
    file = io.BytesIO()
    Image.new("CMYK", (WIDTH, HEIGHT), (10, 20, 30, 0)).save(file, "JPEG")
    return file.getvalue()


def rows_missing() -> bytes:
    """All chunks are whole, but the pixels end halfway."""
    return _png(8, 2, (b"\0" + bytes(3 * WIDTH)) * (HEIGHT // 2))


def flipped_bit(path: str) -> Callable[[World], object]:
    def damage(world: World) -> None:
        data = bytearray((world / path).read_bytes())
        data[len(data) // 2] ^= 1
        (world / path).write_bytes(data)

    return damage


def video(world: World) -> None:
    import av

    with av.open(str(world / IMAGE), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(), format="rgb24")))
        container.mux(stream.encode())


# breaking parameters -----------------------------------------------------------------------------------------


def flame(path: str = FLAME, **changes: Any) -> Callable[[World], object]:
    """Change (None: remove) arrays of one timestep's file."""

    def damage(world: World) -> None:
        arrays = {**np.load(world / path), **changes}
        (world / path).write_bytes(npz(**{name: array for name, array in arrays.items() if array is not None}))

    return damage


def flame_value(key: str, index: tuple[int, ...], value: float) -> Callable[[World], object]:
    def damage(world: World) -> None:
        array = np.load(world / FLAME)[key].copy()
        array[index] = value
        flame(**{key: array})(world)

    return damage


def offset_everywhere(*shape: int) -> Callable[[World], object]:
    def damage(world: World) -> None:
        for file in sorted((world / EXPORT / "flame_param").iterdir()):
            relative = str(file.relative_to(world.folder))
            flame(relative, static_offset=np.zeros(shape, np.float32))(world)

    return damage


def flame_that_runs(world: World) -> None:
    payload = np.empty(1, object)
    payload[0] = Runs(world / "ran")
    flame(expr=payload)(world)


def flame_of_all_timesteps(world: World) -> None:
    """Timesteps in one file, as GaussianAvatars writes `flame_param.npz` of a trained avatar."""
    rows: dict[str, Any] = {name: np.repeat(np.load(world / FLAME)[name], 4, axis=0) for name in MOTION_WIDTHS}
    flame(**rows)(world)


# breaking folders --------------------------------------------------------------------------------------------


def linked_out(path: str) -> Callable[[World], object]:
    """Move a file or folder out of the export, and leave a link."""

    def damage(world: World) -> None:
        (world / "secret").mkdir()
        (world / path).rename(world / "secret" / Path(path).name)
        (world / path).symlink_to(world / "secret" / Path(path).name)

    return damage


def no_tables(world: World) -> None:
    (world / TABLE).unlink()


def without_masks(world: World) -> None:
    all_with(fg_mask_path=None)(world)
    delete(f"{EXPORT}/fg_masks")(world)


def other_persons_files(world: World) -> None:
    """Frames are of one person's export, parameters of another's."""
    shutil.copytree(world / EXPORT, world / "tracking/017_EMO-1_v16")
    frame_with(flame_param_path="../017_EMO-1_v16/flame_param/00002.npz")(world)


def split_by_hand(change: Callable[[Frames], object]) -> Callable[[World], object]:
    """Split files of which the one for testing is edited."""

    def damage(world: World) -> None:
        listed = json.loads((world / TABLE).read_text())["frames"]
        test = [frame for frame in listed if frame["timestep_index"] == 3]
        rest = [frame for frame in listed if frame["timestep_index"] < 3]
        change(test)
        for name, chosen in (
            ("train", [f for f in rest if f["camera_index"] != 1]),
            ("val", [f for f in rest if f["camera_index"] == 1]),
            ("test", test),
        ):
            (world / EXPORT / f"transforms_{name}.json").write_text(json.dumps({"frames": chosen}))

    return damage


def in_train_too(test: Frames) -> None:
    """The first frame of testing is also one of training, by another picture's name."""
    twin = {key: value.replace("00003", "00000") if isinstance(value, str) else value for key, value in test[0].items()}
    test.append({**twin, "timestep_index": 0, "timestep_index_original": 0})


def share_parameters(listed: Frames) -> None:
    for frame in listed[6:9]:
        frame["flame_param_path"] = "flame_param/00001.npz"


NPY = io.BytesIO()
np.save(NPY, np.zeros(1))


def nested(depth: int) -> str:
    return '{"frames": ' + "[" * depth + "]" * depth + "}"


def at(key: str = "") -> str:
    return rf"frame {NUMBER}\b.*{key}"


BROKEN = {
    # the table
    "table is missing": Case(no_tables, EXPORT, "no tracking that can be read"),
    "table is empty": Case(write(TABLE, b""), TABLE, "not valid JSON"),
    "table is cut": Case(cut(TABLE), TABLE, "not valid JSON"),
    "table is a login page": Case(write(TABLE, HTML), TABLE, "not valid JSON"),
    "table is no UTF-8": Case(as_latin1, TABLE, "not valid JSON.*utf-8"),
    "table is nested 100,000 deep": Case(write(TABLE, nested(100_000)), TABLE, "not valid JSON"),
    "table is nested 500 deep": Case(write(TABLE, nested(500)), TABLE, "frame 0 is a list"),
    "table is a list": Case(
        write(TABLE, "[]"), TABLE, "expected a JSON object at the top, found a list"
    ),
    "table is a folder": Case(folder_in_place_of(TABLE), EXPORT, "no tracking|cannot be read"),
    "table is a dangling link": Case(dangling_link_in_place_of(TABLE), EXPORT, "no tracking|no such file"),
    "table has a key twice": Case(key_twice, TABLE, "'camera_index' stands twice"),
    "table has no frames": Case(write(TABLE, '{"frames": []}'), EXPORT, "list no frames"),
    "table has a number for frames": Case(write(TABLE, '{"frames": 3}'), TABLE, "has no list `frames`"),
    "table has a text for a frame": Case(write(TABLE, '{"frames": ["00000_00.png"]}'), TABLE, "frame 0 is a str"),
    "two of three split files": Case(
        write(f"{EXPORT}/transforms_val.json", "{}"), EXPORT, "transforms_train.json, .* missing"
    ),
    "frame listed twice": Case(
        frames(lambda listed: listed.append(listed[NUMBER])), TABLE, "frame 12 and frame 7 are both"
    ),
    "frame missing": Case(
        frames(lambda listed: listed.pop(NUMBER)), TABLE,
        "timestep 2 has frames of 2 cameras, the export has 3; missing is 222200037",
    ),
    "camera missing in one timestep's half": Case(
        frames(lambda listed: listed.__delitem__(slice(1, 9, 3))), TABLE, "frames of 2 cameras.*missing is 222200037"
    ),
    "frame in train and test": Case(
        split_by_hand(in_train_too),
        f"{EXPORT}/transforms_test.json", "both timestep 0",
    ),
    "frame in no split": Case(split_by_hand(lambda test: test.pop()), TABLE, "is in none of"),
    "split of other paths": Case(
        split_by_hand(lambda test: test[0].update(fg_mask_path="fg_masks/00000_00.png")),
        f"{EXPORT}/transforms_test.json", "disagree",
    ),
    # paths
    "path leads out": Case(frame_with(file_path="../../../etc/passwd.png"), TABLE, at("file_path .* leads out")),
    "path is absolute": Case(frame_with(file_path="/etc/passwd"), TABLE, at("file_path '/etc/passwd' leads out")),
    "path of Windows": Case(frame_with(fg_mask_path="C:\\data\\00002_01.png"), TABLE, at("fg_mask_path .* leads out")),
    "path leads into a neighbour": Case(frame_with(flame_param_path="../../head/head.pkl"), TABLE, at("leads out")),
    "path with a NUL": Case(frame_with(file_path="images/\0.png"), TABLE, at("no usable file_path")),
    "path is a number": Case(frame_with(file_path=5), TABLE, at("no usable file_path")),
    "image is a link that leads out": Case(linked_out(IMAGE), TABLE, at("file_path .* leads out")),
    "masks are a link that leads out": Case(linked_out(f"{EXPORT}/fg_masks"), TABLE, "fg_mask_path .* leads out"),
    "parameters are a link that leads out": Case(linked_out(FLAME), TABLE, "frame 6.*flame_param_path .* leads out"),
    "parameters of another person": Case(other_persons_files, TABLE, at("of different exports")),
    # cameras
    "no pose": Case(frame_with(transform_matrix=None), TABLE, at("transform_matrix is no 4x4 .*export_as_nerf")),
    "pose of three rows": Case(
        frame_with(transform_matrix=np.eye(4)[:3].tolist()), TABLE, at("transform_matrix is no 4x4")
    ),
    "pose with NaN": Case(pose_with(0, 3, float("nan")), TABLE, at("transform_matrix has numbers that are not finite")),
    "pose that scales": Case(frames(scaled_pose), TABLE, "frame 1.*transform_matrix is no rotation"),
    "pose that mirrors": Case(frames(mirrored_pose), TABLE, "frame 1.*mirrors"),
    "pose with another last row": Case(pose_with(3, 3, 2.0), TABLE, at("the last row")),
    "camera that moves": Case(pose_with(0, 3, 9.0), TABLE, at("cameras may not move")),
    "one serial for two cameras": Case(
        frames(twin_serials), TABLE, "frame 2.*(differs from the same camera|both timestep)"
    ),
    "negative focal length": Case(all_with(fl_x=-40.0), TABLE, "frame 0.*not positive"),
    "focal length is infinite": Case(frame_with(fl_x=float("inf")), TABLE, at("fl_x is inf")),
    "focal length is a text": Case(frame_with(fl_x="40"), TABLE, at("fl_x is '40'")),
    "no focal length": Case(frame_with(fl_x=None), TABLE, at("neither fl_x nor a camera_angle_x")),
    "size of zero": Case(frame_with(w=0), TABLE, at("w is 0")),
    "two image sizes": Case(frame_with(w=WIDTH * 2, h=HEIGHT * 2), TABLE, at("image size 32x48 against 16x24")),
    "timestep is negative": Case(frame_with(timestep_index=-1), TABLE, at("timestep_index is -1")),
    "timestep is missing": Case(frame_with(timestep_index=None), TABLE, at("timestep_index is None")),
    "two timesteps share parameters": Case(
        frames(share_parameters), TABLE,
        "share the FLAME parameters",
    ),
    # pictures
    "image is missing": Case(delete(IMAGE), IMAGE, "no such file"),
    "image is empty": Case(write(IMAGE, b""), IMAGE, f"the file is empty.*{ANEW}"),
    "image is truncated": Case(cut(IMAGE), IMAGE, "truncated after"),
    "image has a flipped bit": Case(flipped_bit(IMAGE), IMAGE, "damaged .a checksum fails"),
    "image lacks rows": Case(write(IMAGE, rows_missing()), IMAGE, "does not decode|damaged|truncated"),
    "image is a login page": Case(write(IMAGE, HTML), IMAGE, "neither PNG nor JPEG"),
    "image is a video": Case(video, IMAGE, "neither PNG nor JPEG"),
    "image has 16 bits": Case(
        write(IMAGE, png(picture().astype(np.uint16) * 257)), IMAGE, "a 16-bit rgb image; expected 8-bit RGB"
    ),
    "image has a palette": Case(write(IMAGE, palette()), IMAGE, "a 8-bit palette image; expected 8-bit RGB"),
    "image is grey": Case(write(IMAGE, png(mask())), IMAGE, "a 8-bit grey image; expected 8-bit RGB"),
    "image is a CMYK JPEG": Case(write(IMAGE, cmyk()), IMAGE, "a 8-bit cmyk image; expected 8-bit RGB"),
    "image is a truncated JPEG": Case(write(IMAGE, encoded(".jpg", picture())[:-40]), IMAGE, "truncated after"),
    "image is turned by its EXIF tag": Case(
        write(IMAGE, turned(6)), IMAGE, "its EXIF orientation is 6 .*90 degrees clockwise.*exiftool"
    ),
    "image is turned by its EXIF tag, and the only one to tell the size": Case(
        lambda world: [
            frames(lambda listed: [frame.pop(key) for frame in listed for key in ("w", "h")])(world),
            write(FIRST_IMAGE, turned(8))(world),
        ], FIRST_IMAGE, "its EXIF orientation is 8 .*16x24 pixels as they lie, 24x16 as shown",
    ),
    "mask is turned by its EXIF tag": Case(write(MASK, turned(3, "L")), MASK, "its EXIF orientation is 3 "),
    "image is of another size": Case(
        write(IMAGE, png(picture(0, WIDTH * 2, HEIGHT * 2))), IMAGE, "32x48 pixels, but its camera has 16x24"
    ),
    "image is a decompression bomb": Case(write(IMAGE, bomb()), IMAGE, "60000x60000 pixels, but its camera has 16x24"),
    "image is a decompression bomb, and the only one to tell the size": Case(
        lambda world: [
            frames(lambda listed: [frame.pop(key) for frame in listed for key in ("w", "h")])(world),
            write(FIRST_IMAGE, bomb())(world),
        ], TABLE, "not near the middle of an image of 60000x60000",
    ),
    "image is a folder": Case(folder_in_place_of(IMAGE), IMAGE, "cannot be read .Is a directory"),
    "image is a dangling link": Case(dangling_link_in_place_of(IMAGE), IMAGE, "no such file"),
    "mask is missing": Case(delete(MASK), MASK, "no such file"),
    "mask is empty": Case(write(MASK, b""), MASK, "the file is empty"),
    "mask is truncated": Case(cut(MASK), MASK, "truncated after"),
    "mask is of another size": Case(
        write(MASK, png(mask(WIDTH // 2, HEIGHT // 2))), MASK, "8x12 pixels, but its camera has 16x24"
    ),
    "mask has three channels": Case(copy_of(IMAGE, MASK), MASK, "a 8-bit rgb image; expected 8-bit grey"),
    "mask has 16 bits": Case(write(MASK, png(mask().astype(np.uint16) * 257)), MASK, "a 16-bit grey image"),
    "mask has a palette": Case(write(MASK, palette()), MASK, "a 8-bit palette image; expected 8-bit grey"),
    "no masks and no alpha": Case(
        without_masks, FIRST_IMAGE, "neither a mask in fg_masks nor an alpha"
    ),
    # parameters
    "parameters are missing": Case(delete(FLAME), FLAME, "no such file"),
    "parameters are empty": Case(write(FLAME, b""), FLAME, "not a readable .npz"),
    "parameters are truncated": Case(cut(FLAME), FLAME, "not a readable .npz"),
    "parameters are a login page": Case(write(FLAME, HTML), FLAME, "not a readable .npz"),
    "parameters are an array": Case(
        write(FLAME, NPY.getvalue()),
        FLAME, "not a readable .npz",
    ),
    "parameters are a folder": Case(folder_in_place_of(FLAME), FLAME, "no such file|is a folder|directory"),
    "parameters run a command": Case(flame_that_runs, FLAME, "not a readable .npz.*Object arrays cannot be loaded"),
    "parameters lack the jaw": Case(flame(jaw_pose=None), FLAME, "lack jaw_pose"),
    "parameters have no keys": Case(write(FLAME, npz()), FLAME, "lack shape"),
    "parameters have other keys": Case(write(FLAME, npz(pose=np.zeros(3))), FLAME, "lack shape"),
    "parameters are texts": Case(flame(expr=np.array([["0.1"] * 100])), FLAME, "expr has type <U3"),
    "parameters are complex": Case(flame(rotation=np.zeros((1, 3), complex)), FLAME, "rotation has type complex128"),
    "parameters are flags": Case(flame(rotation=np.zeros((1, 3), bool)), FLAME, "rotation has type bool"),
    "parameters have NaN": Case(flame_value("expr", (0, 5), np.nan), FLAME, r"expr\[0, 5\] is nan"),
    "parameters are infinite": Case(flame_value("translation", (0, 2), np.inf), FLAME, r"translation\[0, 2\] is inf"),
    "parameters are huge": Case(flame_value("rotation", (0, 2), 4e5), FLAME, "rotation reaches 4e.05"),
    "parameters are too large for single precision": Case(flame(expr=np.full((1, 100), 1e300)), FLAME, "expr"),
    "parameters of 101 expressions": Case(
        flame(expr=np.ones((1, 101), np.float32)), FLAME, "expr has 101 expression coefficients"
    ),
    "parameters without a time axis": Case(
        flame(rotation=np.zeros(3, np.float32)), FLAME, r"rotation has shape \(3,\), expected \(1, 3\)"
    ),
    "parameters of all timesteps in one file": Case(flame_of_all_timesteps, FLAME, "holds 4 timesteps, expected 1"),
    "static offset of FLAME without teeth": Case(
        offset_everywhere(1, 5023, 3), FIRST_FLAME, "static_offset.*5023.*48"
    ),
    "static offset of FLAME with teeth": Case(
        offset_everywhere(1, 5143, 3), FIRST_FLAME, "static_offset.*5143.*48"
    ),
    "static offset of pairs": Case(
        offset_everywhere(1, VERTICES, 2), FIRST_FLAME, r"static_offset has shape \(1, 48, 2\)"
    ),
}  # fmt: skip


UNION_TRAIN = f"{UNION}/transforms_train.json"


def renamed_member(world: World) -> None:
    (world / EXPORT).rename((world / EXPORT).with_name("030_EMO-1_v17"))


def linked_member(world: World) -> None:
    (world / "elsewhere").mkdir()
    (world / EXPORT).rename(world / "elsewhere/export")
    (world / EXPORT).symlink_to(world / "elsewhere/export")


BROKEN_UNIONS = {
    "member renamed": Case(renamed_member, UNION_TRAIN, "frame 0.*leads out of the export"),
    "member is a link that leads out": Case(linked_member, UNION_TRAIN, "frame 0.*leads out of the export"),
    "path beyond the members": Case(
        frame_with(UNION_TRAIN, 0, file_path="../../head/x.png"), UNION_TRAIN, "frame 0.*leads out"
    ),
    "one split is missing": Case(delete(f"{UNION}/transforms_test.json"), UNION, "transforms_test.json is missing"),
    "nothing to train on": Case(write(UNION_TRAIN, '{"frames": []}'), UNION_TRAIN, "lists no frames"),
    "image of a member is truncated": Case(cut(IMAGE), IMAGE, "truncated after"),
    "parameters of a member are missing": Case(delete(FLAME), FLAME, "no such file"),
    "camera missing in training": Case(
        frames(lambda listed: listed.pop(0), UNION_TRAIN), UNION_TRAIN, "timestep 0 has frames of 2 cameras"
    ),
}  # fmt: skip


def as_union(world: World) -> World:
    world.settings["capture"] = {"download": False, "tracking": f"WORLD/{UNION}", **UNPOSED}
    return world


# tests -------------------------------------------------------------------------------------------------------


def test_control(world: World) -> None:
    world.accepts("import", SUBJECT)
    assert (world / STORE).is_file()


def test_control_union(world: World) -> None:
    as_union(world).accepts("import", SUBJECT)
    assert (world / STORE).is_file()


def test_control_of_files_written_otherwise(world: World) -> None:
    """What the cases do to tables, parameters and pictures is no error in itself."""
    frames(lambda listed: [frame.pop("cx") for frame in listed])(world)
    flame(rotation=np.zeros((1, 3), np.float16), note=np.array("tracked by hand"))(world)
    write(IMAGE, encoded(".jpg", picture()))(world)
    split_by_hand(lambda test: None)(world)
    world.accepts("import", SUBJECT)


@cases(BROKEN)
def test_broken(world: World, case: Case) -> None:
    world.refuses_case(case, "import", SUBJECT)


@cases(BROKEN_UNIONS)
def test_broken_union(world: World, case: Case) -> None:
    as_union(world).refuses_case(case, "import", SUBJECT)


def test_an_old_store_survives(tracked: World) -> None:
    cut(IMAGE)(tracked)
    tracked.refuses("import", SUBJECT, file=IMAGE, finding="truncated after")
    assert (tracked / STORE).is_file()


@pytest.mark.parametrize("path", [TABLE, IMAGE, MASK, FLAME])
def test_unreadable(world: World, path: str) -> None:
    (world / path).chmod(0)
    with bound_by_permissions():
        world.refuses("import", SUBJECT, file=path, finding="(cannot be read|Permission denied).*check its permissions")


def test_results_may_not_be_written(world: World) -> None:
    (world / "results").mkdir()
    (world / "results").chmod(0o500)
    with bound_by_permissions():
        world.refuses("import", SUBJECT, file="results/captures", finding="Permission denied.*check its permissions")


def test_full_disk(world: World) -> None:
    with full_disk(8000):
        world.refuses("import", SUBJECT, file=SHEET, finding="File too large; .*write elsewhere")


def test_full_disk_in_a_process_of_its_own(world: World) -> None:
    def run(*arguments: str) -> Any:
        return world.run_apart(*arguments, limit=8000)

    world.refuses("import", SUBJECT, file=SHEET, finding="File too large; .*write elsewhere", run=run)


def test_traceback_on_request(world: World) -> None:
    cut(TABLE)(world)
    world.refuses_aloud("import", SUBJECT)
