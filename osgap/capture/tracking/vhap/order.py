"""Order and names of timesteps and cameras, and VHAP's rule of which frames are for training."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from nersemble_data.constants import SERIALS

from osgap.capture.nersemble import read_json, sequence_in
from osgap.capture.tracking.recording import HELD_OUT_INDEX, Timestep, held_out_note, split_note, tested
from osgap.capture.tracking.vhap.agreement import Moment
from osgap.capture.tracking.vhap.transforms import Frame, maybe_integer
from osgap.runtime.notes import Notes

# A folder's name tells of NeRSemble's sequences (`074_EMO-1_v16`, `UNION10_306_EMO1234EXP234589_v16`).
_NERSEMBLE = re.compile(r"(?<![A-Za-z])(EMO|EXP|SEN)-?\d")


def _by_sequence(moments: Iterable[Moment]) -> dict[Path, list[Moment]]:
    """Timesteps of each sequence in their order; sequences by their first timestep's number, then as they appear."""
    sequences: dict[Path, list[Moment]] = {}
    for moment in moments:
        sequences.setdefault(moment.base, []).append(moment)
    for members in sequences.values():
        members.sort(key=lambda moment: moment.timestep)
    return dict(sorted(sequences.items(), key=lambda item: item[1][0].timestep))


def camera_serials(frames: Iterable[Frame], cameras: list[str], root: Path, notes: Notes) -> list[str]:
    """Names of the cameras; NeRSemble's serials where an export of its sequences has only their numbers.

    Cameras 0 to 15 are numbered in the order of NeRSemble's own list, in which the frontal one, 222200037, is number 8.
    """
    frames = list(frames)
    if any(frame.identified for frame in frames) or cameras != [str(number) for number in range(len(SERIALS))]:
        return cameras
    if not any(_NERSEMBLE.search(name) for name in (root.name, *{frame.base.name for frame in frames})):
        return cameras
    notes.add(f"no serials (camera_id); cameras 0 to 15 are taken to be NeRSemble's, 8 = {SERIALS[8]}")
    return list(SERIALS)


def choose_held_out(frames: Iterable[Frame], cameras: Mapping[str, str], wished: str, notes: Notes) -> str:
    """The validation camera, of `cameras` by their serials."""
    numbered = next((frame.serial for frame in frames if frame.number == HELD_OUT_INDEX), [*cameras.values()][-1])
    chosen = cameras.get(wished, numbered)
    if len(cameras) > 1:
        notes.add(held_out_note(wished, next(serial for serial, camera in cameras.items() if camera == chosen)))
    return chosen


def split_by_rule(
    moments: list[Moment], cameras: list[str], subject: str, held_out: str, notes: Notes
) -> dict[int, str]:
    """VHAP's split, by `id` of the frame: `tested` timesteps are for testing; of the others the held-out camera is for
    validation (none, if it is the only camera) and the rest for training."""
    by_sequence = _by_sequence(moments)
    sequences = list(by_sequence.values())
    chosen = tested([len(members) for members in sequences], subject)
    notes.add(split_note([base.name for base in by_sequence], chosen))
    test = {
        id(moment)
        for members, flags in zip(sequences, chosen, strict=True)
        for moment, flag in zip(members, flags, strict=True)
        if flag
    }
    split = {}
    for moment in moments:
        for camera, frame in moment.frames.items():
            held = camera == held_out and len(cameras) > 1
            split[id(frame)] = "test" if id(moment) in test else "val" if held else "train"
    return split


def timestep_order(moments: list[Moment], split_of: Mapping[int, str]) -> list[Moment]:
    """Timesteps of training first, then those that are only tested."""

    def only_tested(moment: Moment) -> bool:
        return all(split_of[id(frame)] == "test" for frame in moment.frames.values())

    ordered = [moment for members in _by_sequence(moments).values() for moment in members]
    return sorted(ordered, key=only_tested)


def _originals(export: Path) -> dict[str, int]:
    """Number in the recording of each file of FLAME parameters, as the transforms of one sequence say."""
    path = export / "transforms.json"
    listed = read_json(path).get("frames") if path.is_file() else None
    pairs = [
        (entry.get("flame_param_path"), maybe_integer(entry.get("timestep_index_original")))
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, dict)
    ]
    return {posixpath.basename(name): number for name, number in pairs if isinstance(name, str) and number is not None}


def number_timesteps(moments: list[Moment], root: Path, notes: Notes) -> list[Timestep]:
    """Sequence and number in it of each timestep, in the order given; `root` is the folder of the export."""
    sequences = _by_sequence(moments)
    names = {base: sequence_in(base.name) or base.name for base in sequences}
    if len(set(names.values())) < len(names):  # two takes of one sequence
        names = {base: base.name for base in sequences}
    indices: dict[int, int] = {}
    for base, members in sequences.items():
        # What the export says is the number in the recording (of a union: what the export beside it says), else what
        # the file's name says, else the rank.
        originals = [m.original for m in members]
        if None in originals and base != root:
            numbers = _originals(base)
            originals = [numbers.get(m.flame.name) for m in members]
        candidates = (originals, [maybe_integer(m.flame.stem) for m in members])
        if None in originals:
            notes.add(f"{base.name} does not say which frames of the recording these are; its files' numbers are taken")
        chosen = next((c for c in candidates if None not in c and len(set(c)) == len(c)), range(len(members)))
        indices |= {id(moment): index for moment, index in zip(members, chosen, strict=True) if index is not None}
    return [Timestep(names[moment.base], indices[id(moment)]) for moment in moments]
