"""Small tracking exports in VHAP's layout and NeRSemble trees, made of random pictures and numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from nersemble_data.constants import ASSETS, SEQUENCE_NAMES, SERIALS

from osgap.capture.config import CaptureConfig, SubjectEntry
from osgap.capture.importing.stage import ImportInputs, ImportOutputs, run
from osgap.capture.tracking.layouts import read_recording
from osgap.head.config import HeadAssets

WIDTH, HEIGHT = 20, 28
VERTICES = 7
MOTION = {"expr": 100, "rotation": 3, "neck_pose": 3, "jaw_pose": 3, "eyes_pose": 6, "translation": 3}


def random_pose(random: np.random.Generator) -> np.ndarray:
    """A rigid `[4, 4]` matrix."""
    rotation, _ = np.linalg.qr(random.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, random.normal(size=3)
    return pose


def smooth_picture(random: np.random.Generator, channels: int = 3) -> np.ndarray:
    """`[H, W, 3]` or `[H, W]` uint8."""
    shape = (5, 4, channels) if channels > 1 else (5, 4)
    return cv2.resize(random.integers(0, 256, shape, np.uint8), (WIDTH, HEIGHT))


@dataclass
class TrackingExport:
    """One export on disk, and what was put into it."""

    folder: Path
    serials: list[str]
    poses: np.ndarray
    """`[C, 4, 4]` camera to world, OpenGL axes."""
    intrinsics: np.ndarray
    """`[C, 4]` fl_x, fl_y, cx, cy."""
    frames: list[dict[str, Any]] = field(default_factory=list)
    pixels: dict[str, np.ndarray] = field(default_factory=dict)
    """By path below the folder, RGB or grey."""
    flame: list[dict[str, np.ndarray]] = field(default_factory=list)

    def path(self, kind: str, timestep: int, camera: int = 0) -> Path:
        """A file of the export, of one sequence."""
        name = f"{timestep:05d}.npz" if kind == "flame_param" else f"{timestep:05d}_{camera:02d}.png"
        return self.folder / kind / name

    def edit(self, change: Callable[[list[dict[str, Any]]], Any], name: str = "transforms.json") -> None:
        """Change the frames of a transforms file in place."""
        file = self.folder / name
        content = json.loads(file.read_text())
        change(content["frames"])
        file.write_text(json.dumps(content))

    def set_flame(self, timestep: int, **arrays: Any) -> None:
        """Replace (None: remove) arrays of one timestep's parameter file."""
        file = self.path("flame_param", timestep)
        content = {**np.load(file), **arrays}
        np.savez(file, **{name: array for name, array in content.items() if array is not None})


class Exporter:
    """Writes exports below one folder, all with the same cameras."""

    def __init__(self, root: Path, serials: list[str] | None = None) -> None:
        self.root = root
        self.random = np.random.default_rng(3)
        self.serials = serials or ["222200038", "222200037", "221501007"]
        count = len(self.serials)
        self.poses = np.stack([random_pose(self.random) for _ in range(count)])
        self.intrinsics = self.random.uniform([90, 95, 9, 13], [99, 105, 11, 15], (count, 4))
        self.shape = self.random.normal(size=300).astype(np.float32)
        self.offset = self.random.normal(0, 0.01, (1, VERTICES, 3)).astype(np.float32)

    def single(self, name: str = "030_EMO-1_v16", timesteps: int = 5, splits: bool = False) -> TrackingExport:
        """An export of one sequence."""
        export = TrackingExport(self.root / name, self.serials, self.poses, self.intrinsics)
        for kind in ("images", "fg_masks", "flame_param"):
            (export.folder / kind).mkdir(parents=True)
        for timestep in range(timesteps):
            arrays = {key: self.random.normal(size=(1, width)).astype(np.float32) for key, width in MOTION.items()}
            arrays |= {"shape": self.shape, "static_offset": self.offset}
            np.savez(export.path("flame_param", timestep), **arrays)  # type: ignore[arg-type]
            export.flame.append(arrays)
            for camera in range(len(self.serials)):
                for kind, channels in (("images", 3), ("fg_masks", 1)):
                    path = export.path(kind, timestep, camera)
                    picture = smooth_picture(self.random, channels)
                    cv2.imwrite(str(path), picture[..., ::-1] if channels == 3 else picture)
                    export.pixels[f"{kind}/{path.name}"] = picture
                export.frames.append(self.frame(timestep, camera, timestep))
        write_transforms(export.folder / "transforms.json", export.frames)
        if splits:
            train = math.ceil(0.7 * timesteps)
            of = [
                "test" if f["timestep_index"] >= train else "val" if f["camera_index"] == 1 else "train"
                for f in export.frames
            ]
            for split in ("train", "val", "test"):
                chosen = [frame for frame, name in zip(export.frames, of, strict=True) if name == split]
                write_transforms(export.folder / f"transforms_{split}.json", chosen)
        return export

    def union(
        self, sequences: dict[str, int], held_out: str | None = None, name: str = "UNION_030_v16"
    ) -> tuple[TrackingExport, dict[str, TrackingExport]]:
        """A union of sequences (name -> timesteps), and its members; `held_out` is given by split files, if any."""
        members = {sequence: self.single(f"030_{sequence}_v16", count) for sequence, count in sequences.items()}
        union = TrackingExport(self.root / name, self.serials, self.poses, self.intrinsics)
        union.folder.mkdir()
        count, of = 0, []
        for sequence in sorted(sequences, key=lambda key: key == held_out):
            for timestep in range(sequences[sequence]):
                for camera in range(len(self.serials)):
                    frame = self.frame(count, camera, timestep, f"../{members[sequence].folder.name}/")
                    frame = {k: v for k, v in frame.items() if k not in ("timestep_index_original", "timestep_id")}
                    frame["camera_index"] = f"{camera:02d}"  # as text, which occurs
                    union.frames.append(frame)
                    of.append("test" if sequence == held_out else "val" if camera == 1 else "train")
                count += 1
        if held_out is None:
            write_transforms(union.folder / "transforms.json", union.frames)
        else:
            for split in ("train", "val", "test"):
                chosen = [frame for frame, name in zip(union.frames, of, strict=True) if name == split]
                write_transforms(union.folder / f"transforms_{split}.json", chosen)
        return union, members

    def frame(self, timestep: int, camera: int, original: int, prefix: str = "") -> dict[str, Any]:
        """One entry of a transforms file."""
        fl_x, fl_y, cx, cy = self.intrinsics[camera].tolist()
        return {
            "timestep_index": timestep,
            "timestep_index_original": original,
            "timestep_id": f"{original:05d}",
            "camera_index": camera,
            "camera_id": self.serials[camera],
            "fl_x": fl_x,
            "fl_y": fl_y,
            "cx": cx,
            "cy": cy,
            "w": WIDTH,
            "h": HEIGHT,
            "camera_angle_x": 2 * math.atan(WIDTH / (2 * fl_x)),
            "transform_matrix": self.poses[camera].tolist(),
            "file_path": f"{prefix}images/{original:05d}_{camera:02d}.png",
            "fg_mask_path": f"{prefix}fg_masks/{original:05d}_{camera:02d}.png",
            "flame_param_path": f"{prefix}flame_param/{original:05d}.npz",
        }


def write_transforms(path: Path, frames: list[dict[str, Any]], **shared: Any) -> None:
    path.write_text(json.dumps({**shared, "frames": frames}))


def import_export(tracking: Path, output: Path, subject: str = "030", **inputs: Any) -> Path:
    """Run the stage `import` on a tracking folder; returns the store's path, which is `output`.

    Pictures here are random, so that no head stands where they show one: that is no reason to stop.
    """
    entry, config = inputs.pop("entry", SubjectEntry()), inputs.pop("config", CaptureConfig())
    config = config.model_copy(update={"check": "warn"})
    outputs = ImportOutputs(output, output.with_suffix(".json"), output.with_suffix(".png"))
    run(config, ImportInputs(tracking, **inputs), outputs, subject=subject, seed=0, entry=entry)
    return output


def noted(
    tracking: Path, head: HeadAssets | None = None, config: CaptureConfig | None = None, subject: str = "030"
) -> str:
    """What a reader says that it assumed, a line each."""
    recording = read_recording(tracking, config or CaptureConfig(), subject, SubjectEntry(), assets=head)
    return "\n".join(recording.notes)


def template_only(path: Path) -> HeadAssets:
    """A head of which an import reads no more than the template."""
    return HeadAssets(model=path.with_suffix(".absent"), masks=path.with_suffix(".absent"), template=path)


# NeRSemble ---------------------------------------------------------------------------------------------------


def write_video(path: Path, frames: int, seed: int = 0) -> None:
    """A small H.264 video of noise."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"g": "5", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 48, 64, "yuv420p"
        for _ in range(frames):
            picture = av.VideoFrame.from_ndarray(random.integers(0, 256, (64, 48, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def write_pictures(
    path: Path, pictures: Iterable[np.ndarray], codec: str = "libx264rgb", gop: int | None = None
) -> Path:
    """A video of RGB pictures `[H, W, 3]`; the default codec loses nothing.

    Args:
        gop: there is a keyframe every so many. Default is every four, and wherever pictures change much.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = None
        for picture in pictures:
            if stream is None:
                options = {"qp": "0", "g": str(gop or 4), "bf": "2"} | ({"sc_threshold": "0"} if gop else {})
                stream = cast("Any", container).add_stream(codec, rate=24, options=options)
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "rgb24" if codec == "libx264rgb" else "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode())
    return path


def moving_pictures(random: np.random.Generator, count: int, width: int, height: int) -> np.ndarray:
    """`[count, H, W, 3]` uint8, smooth, each another."""
    coarse = random.integers(0, 256, (count, 6, 5, 3), np.uint8)
    return np.stack([cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC) for picture in coarse])


@dataclass
class Benchmark:
    """A participant of NeRSemble's benchmark on disk, and what was put into it."""

    folder: Path
    serials: list[str]
    world_to_camera: np.ndarray
    """`[C, 4, 4]` OpenCV axes."""
    intrinsics: np.ndarray
    """`[C, 3, 3]`."""
    tracks: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    """Arrays of the tracking, by sequence."""
    images: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    """By sequence and serial, `[frames, H, W, 3]`."""
    alphas: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    """`[frames, H, W]`."""

    def sequence(self, name: str) -> Path:
        return self.folder / "sequences" / name

    def video(self, name: str, serial: str, kind: str = "images") -> Path:
        return self.sequence(name) / kind / f"cam_{serial}.mp4"

    @property
    def calibration(self) -> Path:
        return self.folder / "calibration" / "camera_params.json"

    def track(self, name: str) -> Path:
        return self.sequence(name) / "tracking" / "flame2023_tracking_v2.npz"

    def set_track(self, name: str, **arrays: Any) -> None:
        """Replace (None: remove) arrays of a sequence's tracking."""
        self.tracks[name] = {k: v for k, v in {**self.tracks[name], **arrays}.items() if v is not None}
        np.savez(self.track(name), **self.tracks[name])  # type: ignore[arg-type]

    def write_calibration(self, **changes: Any) -> None:
        content = {
            "world_2_cam": {s: pose.tolist() for s, pose in zip(self.serials, self.world_to_camera, strict=True)},
            "intrinsics": {s: matrix.tolist() for s, matrix in zip(self.serials, self.intrinsics, strict=True)},
        }
        self.calibration.parent.mkdir(parents=True, exist_ok=True)
        self.calibration.write_text(json.dumps({**content, **changes}))


def make_benchmark(
    folder: Path, sequences: dict[str, int], serials: list[str], scale: float = 7.3, extra_frames: int = 2
) -> Benchmark:
    """A participant with the given sequences (name -> tracked frames) and cameras.

    Videos are `2 * WIDTH` by `2 * HEIGHT` and begin with `extra_frames` frames that are not tracked.
    """
    from scipy.spatial.transform import Rotation

    random = np.random.default_rng(11)
    count, width, height = len(serials), 2 * WIDTH, 2 * HEIGHT
    poses = np.broadcast_to(np.eye(4), (count, 4, 4)).copy()
    poses[:, :3, :3] = Rotation.from_euler("XYZ", random.normal(0, 0.3, (count, 3))).as_matrix()
    poses[:, :3, 3] = random.normal([0, 0, 9], 0.5, (count, 3))
    focal = random.uniform(1800, 2200, count)
    matrices = np.broadcast_to(np.eye(3), (count, 3, 3)).copy()
    matrices[:, 0, 0], matrices[:, 1, 1] = focal, focal * 1.01
    matrices[:, :2, 2] = random.normal([width / 2, height / 2], 2, (count, 2))
    made = Benchmark(folder, serials, poses, matrices)
    made.write_calibration()
    shape = random.normal(size=(1, 300))
    for name, tracked in sequences.items():
        angles = random.normal(0, 0.4, (tracked, 3))
        made.tracks[name] = {
            "shape": shape,
            "expression": random.normal(size=(tracked, 100)),
            "rotation": angles,
            "rotation_matrices": Rotation.from_euler("XYZ", angles).as_matrix(),
            "translation": random.normal(0, 0.3, (tracked, 3)),
            "jaw": random.normal(0, 0.2, (tracked, 3)),
            "neck": random.normal(0, 0.2, (tracked, 3)),
            "eyes": random.normal(0, 0.2, (tracked, 6)),
            "frames": np.arange(tracked) + extra_frames,
            "scale": np.full((1, 1), scale),
        }
        made.track(name).parent.mkdir(parents=True)
        made.set_track(name)
        for serial in serials:
            frames = tracked + extra_frames
            images = moving_pictures(random, frames, width, height)
            alphas = moving_pictures(random, frames, width, height)[..., 0]
            made.images[name, serial], made.alphas[name, serial] = images, alphas
            write_pictures(made.video(name, serial), images)
            grey = np.repeat(alphas[..., None], 3, axis=-1)
            write_pictures(made.video(name, serial, "alpha_maps"), grey)
    return made


@dataclass
class Tree:
    """A NeRSemble tree on disk."""

    root: Path
    participant: int
    serials: list[str]

    def video(self, sequence: str, serial: str) -> Path:
        return self.root / ASSETS["per_cam"]["images"].format(p_id=self.participant, seq_name=sequence, serial=serial)

    @property
    def calibration(self) -> Path:
        return self.root / ASSETS["per_person"]["calibration"].format(p_id=self.participant)

    @property
    def color_calibration(self) -> Path:
        return self.root / ASSETS["per_person"]["color_calibration"].format(p_id=self.participant)

    @property
    def url(self) -> str:
        return self.root.as_uri()


def make_tree(root: Path) -> Tree:
    """Participant 30 with `EMO-1-shout+laugh` (7 frames) and `EXP-2-eyes` (4 frames) from three cameras."""
    made = Tree(root, 30, list(SERIALS[:3]))
    random = np.random.default_rng(5)
    calibration = {
        "world_2_cam": {serial: random_pose(random).tolist() for serial in made.serials},
        "intrinsics": [[8189.0, 0, 1100], [0, 8189.0, 1604], [0, 0, 1]],
    }
    colors = {serial: np.eye(3).tolist() for serial in made.serials}
    for asset, content in (("calibration", calibration), ("color_calibration", colors)):
        path = made.root / ASSETS["per_person"][asset].format(p_id=30)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    for sequence, frames in (("EMO-1-shout+laugh", 7), ("EXP-2-eyes", 4)):
        for number, serial in enumerate(made.serials):
            write_video(made.video(sequence, serial), frames, seed=number)
    rows = [",".join(["ID", *SEQUENCE_NAMES])]
    for participant, present in ((17, ["HAIR"]), (30, ["BACKGROUND", "EMO-1-shout+laugh", "EXP-2-eyes"])):
        rows.append(",".join([str(participant), *("x" if name in present else "" for name in SEQUENCE_NAMES)]))
    (made.root / ASSETS["global"]["metadata_sequences"]).write_text("\n".join(rows) + "\n")
    return made


def write_manifest(tree: Tree, *sequences: str) -> Path:
    """What a download leaves beside the files, as far as an import reads it."""
    import av

    files = {}
    for path in (tree.video(sequence, serial) for sequence in sequences for serial in tree.serials):
        with av.open(str(path)) as container:
            frames = container.streams.video[0].frames
        files[str(path.relative_to(tree.root))] = {"frames": frames, "size": path.stat().st_size}
    content = {"participant": tree.participant, "sequences": sequences, "serials": tree.serials, "files": files}
    manifest = tree.root / "manifest.json"
    manifest.write_text(json.dumps(content))
    return manifest
