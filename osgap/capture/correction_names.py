"""Corrections of what is wrong with whole captures, by the names that `capture.corrections` takes.

`osgap.capture.sanity.corrections` applies them.
"""

from __future__ import annotations

import difflib

CORRECTIONS: dict[str, str] = {
    "decimetres": "divide camera positions by 10",
    "centimetres": "divide camera positions by 100",
    "millimetres": "divide camera positions by 1000",
    "opencv_axes": "take camera matrices as of OpenCV's axes (x right, y down, z forward): flip y and z",
    "world_to_camera": "invert camera matrices: they take the world to the camera",
    "opencv_world_to_camera": "invert camera matrices, which are of OpenCV's axes",
    "transposed_rotations": "transpose the rotations of camera matrices",
    "left_handed": "mirror the cameras' world: x goes the other way",
    "z_up": "turn the cameras' world, in which z is up, so that y is",
    "world_axes:X,Y,Z": "turn the cameras' world: which of its axes (x, -x, y, …) are the head's x, y and z",
    "exchanged_center": "exchange cx and cy",
    "centered": "put the principal point into the middle of the image",
    "intrinsics_of:WxH": "scale focal lengths and principal points from images of W x H pixels to these",
    "head_millimetres": "divide the head's translation by 1000",
    "head_centimetres": "divide the head's translation by 100",
    "head_at_origin": "leave out the head's translation, which the cameras contain",
    "degrees": "take rotations of head, neck, jaw and eyes as degrees",
    "reversed_rotations": "turn head and neck the other way",
    "exchanged_cameras:A,B": "exchange the poses and intrinsics of the cameras A and B (serials)",
    "camera_order:A,B,…": "let the cameras, in their order, have the poses and intrinsics of A, B, … (all serials)",
    "parameters_later:N": "give every moment the FLAME parameters of N timesteps later (earlier, if negative)",
}
"""Name -> what it does. What stands after a colon is to be filled in."""


def check_correction(name: str) -> str:
    """The name, if there is such a correction; several may stand together, with a comma and a space between them.

    Raises:
        ValueError: for one that is none of `CORRECTIONS`, or wrongly filled in.
    """
    for part in name.split(", "):
        _check_one(part)
    return name


def _check_one(name: str) -> None:
    kind, colon, argument = name.partition(":")
    patterns = {known.partition(":")[0]: ":" in known for known in CORRECTIONS}
    if kind not in patterns or patterns[kind] != bool(colon):
        close = difflib.get_close_matches(kind, patterns, n=1)
        pattern = next((known for known in CORRECTIONS if close and known.partition(":")[0] == close[0]), "")
        hint = f"did you mean {pattern!r}?" if pattern else f"known are {', '.join(CORRECTIONS)}"
        raise ValueError(f"{name!r} is no correction; {hint}")
    if kind == "world_axes":
        signed_axes(argument)
    elif kind == "intrinsics_of":
        parts = argument.split("x")
        if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise ValueError(f"{name!r}: expected a width and a height in pixels, such as intrinsics_of:88x128")
    elif kind == "parameters_later" and (not argument.removeprefix("-").isdecimal() or int(argument) == 0):
        raise ValueError(f"{name!r}: expected a number of timesteps, such as parameters_later:1")


def signed_axes(text: str) -> list[tuple[int, int]]:
    """Three axes by name: of each its number (x is 0) and its sign.

    Args:
        text: such as `x,z,-y`.

    Raises:
        ValueError: when they are no right-handed axes.
    """
    names = text.split(",")
    numbers = ["xyz".find(name.removeprefix("-")) for name in names]
    signs = [-1 if name.startswith("-") else 1 for name in names]
    if sorted(numbers) == [0, 1, 2] and all(len(name.removeprefix("-")) == 1 for name in names):
        crossed = sum(numbers[i] > numbers[j] for i in range(3) for j in range(i + 1, 3)) % 2
        if signs[0] * signs[1] * signs[2] == (-1 if crossed else 1):
            return list(zip(numbers, signs, strict=True))
    raise ValueError(f"{text!r} names no right-handed axes; such as x,z,-y")
