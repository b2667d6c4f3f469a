"""Whether the frames of an export agree: each stands once, every timestep is seen by every camera."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from osgap.capture.tracking.vhap.transforms import Frame
from osgap.runtime.errors import UserError


@dataclass
class Moment:
    """One timestep while it is put together."""

    base: Path
    timestep: int
    flame: Path
    frames: dict[str, Frame] = field(default_factory=dict)

    @property
    def original(self) -> int | None:
        """`timestep_index_original` of its first frame."""
        return next(iter(self.frames.values())).original


def refuse_mixed_folders(frames: Iterable[Frame], root: Path) -> None:
    """An export has its frames in its own folder or, as a union, all of them in others."""
    own = next((frame for frame in frames if frame.base == root), None)
    other = next((frame for frame in frames if frame.base != root), None)
    if own is not None and other is not None:
        raise UserError(
            f"{other.where} leads out of the export, into {other.base.name}, while others stay in it; only a union, "
            f"without frames of its own, may do that. Correct the paths."
        )


def compare_tables(complete: list[Frame], split: list[Frame], everything: Path | None, union: bool) -> None:
    """transforms.json and the split files must tell the same of each frame (a union numbers its timesteps anew)."""
    by_image = {frame.image: frame for frame in complete}
    for frame in split:
        same = by_image.pop(frame.image, None)
        if same is None:
            if union:
                continue
            raise UserError(f"{frame.where} is not in {everything}. Add it there, or remove it here.")
        told = (frame.serial, frame.flame, frame.mask, None if union else frame.timestep)
        if told != (same.serial, same.flame, same.mask, None if union else same.timestep):
            raise UserError(
                f"{frame.where} and {same.where} disagree on its camera, timestep, mask or FLAME parameters. Give "
                f"both the same."
            )
    if by_image and not union:
        frame = next(iter(by_image.values()))
        raise UserError(
            f"{frame.where} is in none of transforms_{{train,val,test}}.json. Add it to one of them, or remove the "
            f"three files to have the frames split by VHAP's rule."
        )


def tabulate(frames: Iterable[Frame]) -> list[Moment]:
    """Frames by timestep (its export's folder and number), in the order of first appearance."""
    moments: dict[tuple[Path, int], Moment] = {}
    parameters: dict[Path, Moment] = {}
    for frame in frames:
        moment = moments.setdefault(
            (frame.base, frame.timestep), Moment(base=frame.base, timestep=frame.timestep, flame=frame.flame)
        )
        if moment.flame != frame.flame:
            raise UserError(
                f"{frame.where}: timestep {frame.timestep} has the FLAME parameters {frame.flame.name} here and "
                f"{moment.flame.name} in other frames. Correct flame_param_path or timestep_index."
            )
        if parameters.setdefault(frame.flame, moment) is not moment:
            raise UserError(
                f"{frame.where}: timesteps {parameters[frame.flame].timestep} and {frame.timestep} share the FLAME "
                f"parameters {frame.flame.name}. Correct flame_param_path or timestep_index."
            )
        if frame.serial in moment.frames:
            raise UserError(
                f"{frame.where} and {moment.frames[frame.serial].where} are both timestep {frame.timestep} of camera "
                f"{frame.serial}; each frame may stand only once. Remove one, or correct its camera or timestep."
            )
        moment.frames[frame.serial] = frame
    return list(moments.values())


def camera_order(frames: Iterable[Frame]) -> list[str]:
    """Serials by the camera's number where every camera has one of its own, else in the order of appearance."""
    numbers: dict[str, int | None] = {}
    for frame in frames:
        numbers.setdefault(frame.serial, frame.number)
    known = [number for number in numbers.values() if number is not None]
    if len(set(known)) < len(numbers):
        return list(numbers)
    return sorted(numbers, key=lambda serial: numbers[serial] or 0)


def refuse_missing_cameras(moments: Iterable[Moment], serials: list[str]) -> None:
    """Raise `UserError` unless every timestep has a frame of every camera."""
    for moment in moments:
        missing = [serial for serial in serials if serial not in moment.frames]
        if missing:
            frame = next(iter(moment.frames.values()))
            raise UserError(
                f"{frame.where.partition(': frame')[0]}: timestep {moment.timestep} has frames of "
                f"{len(moment.frames)} cameras, the export has {len(serials)}; missing is "
                f"{', '.join(missing)}. Add them, or remove that timestep from the export."
            )
