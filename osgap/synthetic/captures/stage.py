"""The stage `synthetic-person`: a person's captures in both of a real user's forms, raw videos and a tracking
export."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from filelock import FileLock, Timeout

from osgap.head.config import HeadAssets
from osgap.runtime.artifacts import write_json
from osgap.runtime.errors import UserError
from osgap.runtime.progress import track
from osgap.runtime.provenance import Provenance, file_digest
from osgap.runtime.seeds import derive_seed
from osgap.synthetic.captures import nersemble, tracking
from osgap.synthetic.captures.cameras import CameraArray, make_cameras
from osgap.synthetic.captures.motion import Motion, make_motion
from osgap.synthetic.captures.tracer import Fade, trace
from osgap.synthetic.config import SyntheticConfig
from osgap.synthetic.people.person import Person, make_person

STAGE = "synthetic-person"

FADE = Fade(point=(0.0, -0.16, -0.03), up=(0.0, 0.9798, 0.2), softness=0.02)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PersonOutputs:
    """Where one person's captures go."""

    nersemble: Path
    """Root of the NeRSemble tree; the person's folder is made in it."""
    tracking: Path
    """Folder in which the subject's exports are made, one per sequence and their union."""
    manifest: Path
    """JSON with the digest of every file; written last, so where it is, all is."""


def run(
    config: SyntheticConfig,
    inputs: HeadAssets,
    outputs: PersonOutputs,
    *,
    subject: str,
    seed: int,
    sequences: Sequence[str],
    workers: int = 1,
) -> None:
    """Make one person and photograph them.

    The files depend on the seeds, the subject, the sequences, the config and the code; not on `workers`.

    Args:
        config: pictures to make.
        inputs: the head model's files.
        outputs: see `PersonOutputs`.
        subject: name of the person, in digits: NeRSemble's number.
        seed: seed of the run; `config.seed` makes other people with the same one.
        sequences: what the person performs, by NeRSemble's names, in the order of the recording.
        workers: processes that trace and encode.

    Raises:
        UserError: a subject that is no number, an unknown sequence, odd image sizes, or another process at work on
            the same person.
    """
    participant = nersemble.participant_number(subject)
    nersemble.check_video_size(config.width, config.height)
    provenance = Provenance.collect(
        STAGE,
        __name__,
        subject=subject,
        config={**config.computation(), "sequences": list(sequences)},
        inputs=inputs.files,
        seed=seed,
    )
    with _exclusive(outputs, subject):
        outputs.manifest.unlink(missing_ok=True)
        with _staging(outputs.tracking, subject) as exports, _staging(outputs.nersemble, subject) as recordings:
            _capture(config, inputs, exports, recordings, subject, participant, seed, sequences, workers)
            files = {
                f"{name}/{path}": file_digest(folder / path)
                for name, folder in (("nersemble", recordings), ("tracking", exports))
                for path in tracking.relative_files(folder)
            }
            os.sync()  # once: a thousand small files take seconds to sync one by one
            _move_into_place(recordings, outputs.nersemble)
            _move_into_place(exports, outputs.tracking)
        nersemble.publish(outputs.nersemble, subject, sequences)
        write_json(outputs.manifest, {"subject": subject, "files": files}, provenance.as_dict())
    _log.info("%s: %d files of synthetic person %s", outputs.manifest, len(files), subject)


def _capture(
    config: SyntheticConfig,
    inputs: HeadAssets,
    exports: Path,
    recordings: Path,
    subject: str,
    participant: int,
    seed: int,
    sequences: Sequence[str],
    workers: int,
) -> None:
    """Fill the two folders with what `outputs.tracking` and `outputs.nersemble` will hold of this person."""

    def seed_of(purpose: str) -> int:
        # The section's name of old, so that the same people come of it.
        return derive_seed(seed, "standin", config.seed, subject, purpose)

    motions = {
        sequence: make_motion(sequence, config.timesteps_per_sequence, seed_of("motion")) for sequence in sequences
    }
    person = make_person(seed_of("person"), config)
    cameras = make_cameras(config.width, config.height, seed_of("rig"))
    corrections = nersemble.color_corrections(cameras.serials, seed_of("colour"))
    nersemble.write_calibration(recordings, participant, cameras, corrections)
    with crew(CaptureSetup(person, cameras, config.samples_per_axis), workers) as run_all:
        static_offset, posed = pose(inputs, person.shape, list(motions.values()))
        shots, videos = [], []
        timesteps = iter(posed)
        for sequence, motion in motions.items():
            folder = tracking.sequence_folder(exports, subject, sequence)
            tracking.write_parameters(folder, motion, person.shape, static_offset)
            tracking.write_sequence_transforms(folder, cameras, motion.timesteps)
            for kind in ("images", "fg_masks"):
                (folder / kind).mkdir()
            shots += [(next(timesteps), folder, timestep) for timestep in range(motion.timesteps)]
            for camera, serial in enumerate(cameras.serials):
                video = nersemble.video_path(recordings, participant, sequence, serial)
                videos.append((folder, motion.timesteps, camera, corrections[serial], video))
        for _ in track(run_all(_shoot, shots), f"{subject}: tracing", total=len(shots)):
            pass
        for _ in track(run_all(_encode_video, videos), f"{subject}: encoding videos", total=len(videos)):
            pass
    union = tracking.union_folder(exports, subject, sequences)
    tracking.write_union_transforms(
        union, cameras, subject, {name: motion.timesteps for name, motion in motions.items()}
    )
    tracking.write_canonical(union, person.shape, static_offset)


def pose(inputs: HeadAssets, shape: np.ndarray, motions: Sequence[Motion]) -> tuple[np.ndarray, np.ndarray]:
    """The head at all timesteps of all motions, as the head model has it: static offset `[V, 3]`, posed `[T, V, 3]`."""
    import torch

    from osgap.head.assets import load_head
    from osgap.head.params import FlameParams

    head = load_head(inputs)
    static_offset = torch.zeros(head.vertex_count, 3)
    together = {
        name: torch.from_numpy(np.concatenate([motion.arrays()[name] for motion in motions]))
        for name in motions[0].arrays()
    }
    params = FlameParams(shape=torch.from_numpy(shape), static_offset=static_offset, **together)
    with torch.inference_mode():
        return static_offset.numpy(), head.vertices(params).numpy()


# ---------------------------------------------------------------------------------------- work of the processes
@dataclass(frozen=True)
class CaptureSetup:
    """What all pictures have in common."""

    person: Person
    cameras: CameraArray
    samples_per_axis: int


_Shot = tuple[np.ndarray, Path, int]
_Video = tuple[Path, int, int, np.ndarray, Path]


def _shoot(setup: CaptureSetup, shot: _Shot) -> None:
    """Trace one timestep and write its pictures and masks."""
    vertices, folder, timestep = shot
    traced = trace(setup.person.scene(vertices), setup.cameras, setup.samples_per_axis, FADE)
    for camera in range(len(setup.cameras.serials)):
        _write_png(folder / tracking.frame_path("images", timestep, camera), traced.images[camera][..., ::-1])
        _write_png(folder / tracking.frame_path("fg_masks", timestep, camera), traced.alphas[camera])


def _write_png(path: Path, image: np.ndarray) -> None:
    # The folder is not yet visible, so the file need not be written atomically.
    ok, data = cv2.imencode(".png", image)
    if not ok:
        raise RuntimeError(f"OpenCV cannot encode an image of shape {image.shape} as PNG")
    path.write_bytes(data.tobytes())


def _encode_video(setup: CaptureSetup, job: _Video) -> None:
    """Encode one camera's video from its pictures, in the colours of that camera."""
    folder, timesteps, camera, correction, path = job
    frames = (
        nersemble.uncorrect(_read_rgb(folder / tracking.frame_path("images", timestep, camera)), correction)
        for timestep in range(timesteps)
    )
    nersemble.write_video(path, frames, setup.cameras.width, setup.cameras.height)


def _read_rgb(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    if image is None:
        raise RuntimeError(f"{path}: just written, and not readable")
    return image[..., ::-1]


RunAll = Callable[[Callable[[CaptureSetup, Any], Any], Iterable[Any]], Iterator[Any]]
"""Does a job for each item and yields the results in the items' order."""


@contextmanager
def crew(setup: CaptureSetup, workers: int) -> Iterator[RunAll]:
    """Yield a function that does a job for each item, in this process or in `workers` of them."""
    if workers == 1:
        yield lambda job, items: (job(setup, item) for item in items)
        return
    # Spawned, because a fork would inherit the locks of torch's and Embree's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_join_crew, initargs=(setup,)) as pool:
        try:
            for _ in range(workers):  # they start while the caller prepares their work
                pool.submit(_begin)
            yield lambda job, items: pool.map(_work, ((job, item) for item in items))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_setup_of_this_process: CaptureSetup | None = None


def _join_crew(setup: CaptureSetup) -> None:
    global _setup_of_this_process
    _setup_of_this_process = setup
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Workers of a pool outlive a parent that is killed, waiting for work that never comes; these do not."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _begin() -> None:
    """Nothing: a process is started by the first piece of work."""


def _work(task: tuple[Callable[[CaptureSetup, Any], Any], Any]) -> Any:
    job, item = task
    assert _setup_of_this_process is not None, "the pool's initializer has not run"
    return job(_setup_of_this_process, item)


# ------------------------------------------------------------------------------------------- all or nothing
@contextmanager
def _exclusive(outputs: PersonOutputs, subject: str) -> Iterator[None]:
    """Hold the lock on one person; what a dead run left half-written is removed."""
    outputs.tracking.mkdir(parents=True, exist_ok=True)
    lock = FileLock(outputs.tracking / f".synthetic-{subject}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"{outputs.tracking}: another process is making synthetic person {subject}. Wait for it, or stop it."
        ) from error
    try:
        for root in (outputs.tracking, outputs.nersemble):
            for stale in root.glob(f".synthetic-{subject}.tmp-*"):
                shutil.rmtree(stale)
        yield
    finally:
        lock.release()


@contextmanager
def _staging(root: Path, subject: str) -> Iterator[Path]:
    """A hidden folder in `root` that is removed in the end; on the same file system, so that renaming is possible."""
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".synthetic-{subject}.tmp-", dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move_into_place(staging: Path, root: Path) -> None:
    """Rename every folder of `staging` into `root`; an older one of that name goes where `staging` is removed."""
    for folder in sorted(staging.iterdir()):
        target = root / folder.name
        if target.exists():
            target.rename(staging / f".old-{folder.name}")
        folder.rename(target)
