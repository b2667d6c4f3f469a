"""What there is besides the stages: rendering and exporting avatars, `check` and `doctor`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from osgap.cli.common import Common, Options, app
from osgap.rendering.settings import Clip, Motion, View

AvatarFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="AVATAR")]
"""Folder with `point_cloud.ply` and `flame_param.npz`."""
Output = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]


@app.command(name="render")
def render(
    avatar: AvatarFolder,
    output: Output,
    motion: tyro.conf.OmitArgPrefixes[Motion] = Motion(),
    view: tyro.conf.OmitArgPrefixes[View] = View(),
    clip: tyro.conf.OmitArgPrefixes[Clip] = Clip(),
    color: Literal["sh_dc", "rgb"] = "sh_dc",
    common: Options = Common(),
) -> None:
    """Render an avatar under any motion and camera path, to a video or to frames; see docs/rendering.md.

    Args:
        avatar: Folder with point_cloud.ply and flame_param.npz.
        output: A .mp4 file, a .png file for one frame, or a folder for frames as PNG.
        color: What the avatar's own colours are. Files of this program say so themselves.
    """
    pipeline = common.pipeline()
    from osgap.rendering import stage

    stage.run(avatar, output, pipeline.head, motion=motion, view=view, clip=clip, color=color)
    print(output)


@app.command(name="export-avatar")
def export_avatar(
    avatar: AvatarFolder,
    output: Output,
    viewer: Literal["gaussianavatars", "osgap"] = "gaussianavatars",
    color: Literal["sh_dc", "rgb"] = "sh_dc",
    common: Options = Common(),
) -> None:
    """Write an avatar's files as a viewer of the reference implementations opens them; see docs/data.md.

    Args:
        avatar: Folder with point_cloud.ply and flame_param.npz.
        output: Folder to write point_cloud.ply and flame_param.npz to; for OSGAP's viewer flame_param_024.npz as well.
        viewer: Whose viewer: they expect other degrees of spherical harmonics, and OSGAP's takes colours for RGB and
            looks for flame_param_024.npz, without which it shows a point cloud that no head moves.
        color: What the avatar's own colours are. Files of this program say so themselves.
    """
    pipeline = common.pipeline()
    from osgap.interop import export as stage

    _written(stage.export_avatar(avatar, output, pipeline.head, viewer=viewer, color=color))


@app.command(name="export-splats")
def export_splats(
    avatar: AvatarFolder,
    output: Output,
    frames: str = "0",
    motion: Path | None = None,
    sequence: str | None = None,
    up: Literal["y", "-y"] = "-y",
    sh_degree: Literal[0, 1, 2, 3] = 3,
    color: Literal["sh_dc", "rgb"] = "sh_dc",
    common: Options = Common(),
) -> None:
    """Write an avatar in the world's coordinates, as any viewer of 3D Gaussian splats opens it.

    Args:
        avatar: Folder with point_cloud.ply and flame_param.npz.
        output: A .ply file for one frame, a folder for several.
        frames: Timesteps, such as 7, 0:10, 0:100:5 or all.
        motion: Whose motion the avatar is given: a .npz (docs/data.md), an avatar's folder, or a capture store (.h5).
            Default is its own.
        sequence: Sequence of the capture store that `--motion` names, such as EXP-2. Default is all of them.
        up: The axis that points up: -y as splat viewers expect, y as the cameras of the capture have it.
        sh_degree: Degree of the spherical harmonics that the reader expects; all but the first are zero.
        color: What the avatar's own colours are. Files of this program say so themselves.
    """
    pipeline = common.pipeline()
    from osgap.interop import export as stage

    paths = stage.export_splats(
        avatar, output, pipeline.head,
        frames=frames, motion=motion, sequence=sequence, up=up, sh_degree=sh_degree, color=color,
    )  # fmt: skip
    _written(paths)


@app.command(name="export-mesh")
def export_mesh(
    avatar: AvatarFolder,
    output: Output,
    frames: str = "0",
    motion: Path | None = None,
    sequence: str | None = None,
    up: Literal["y", "-y"] = "y",
    suffix: Literal[".obj", ".ply", ".glb"] = ".obj",
    common: Options = Common(),
) -> None:
    """Write the head mesh of an avatar's frames as OBJ, PLY or GLB.

    Args:
        avatar: Folder with point_cloud.ply and flame_param.npz.
        output: A .obj, .ply or .glb file for one frame, a folder for several.
        frames: Timesteps, such as 7, 0:10, 0:100:5 or all.
        motion: Whose motion the avatar is given: a .npz (docs/data.md), an avatar's folder, or a capture store (.h5).
            Default is its own.
        sequence: Sequence of the capture store that `--motion` names, such as EXP-2. Default is all of them.
        up: The axis that points up: y as glTF has it, -y to lie on exported splats.
        suffix: Format of the files in a folder.
    """
    pipeline = common.pipeline()
    from osgap.interop import export as stage

    paths = stage.export_mesh(
        avatar, output, pipeline.head, frames=frames, motion=motion, sequence=sequence, up=up, suffix=suffix
    )
    _written(paths)


@app.command(name="export-maps")
def export_maps(
    avatar: AvatarFolder,
    output: Output,
    uv_size: int | None = None,
    color: Literal["sh_dc", "rgb"] = "sh_dc",
    common: Options = Common(),
) -> None:
    """Write the UV attribute maps (uv_gt) of an avatar that has one Gaussian per texel.

    Args:
        avatar: Folder with point_cloud.ply and flame_param.npz.
        output: A .npz file.
        uv_size: Texels along either axis. Default is found out.
        color: What the avatar's own colours are. Files of this program say so themselves.
    """
    pipeline = common.pipeline()
    from osgap.interop import export as stage

    _written(stage.export_maps(avatar, output, pipeline.head, uv_size=uv_size, color=color))


@app.command(name="doctor")
def doctor(json: bool = False, common: Options = Common()) -> None:
    """Say what this machine and this config can do, and what is missing. Exit code 1: not ready.

    Args:
        json: For machines: JSON on stdout.
    """
    common.limit_threads()
    from osgap.doctor import examine, show, to_json

    report = examine(common.sources, common.set)
    print(to_json(report)) if json else show(report)
    sys.exit(0 if report.ready else 1)


@app.command(name="check")
def check(
    export: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="EXPORT")],
    out: Path = Path(),
    name: str | None = None,
    head: tuple[Path, Path, Path] | None = None,
    json: bool = False,
    common: Options = Common(),
) -> None:
    """Look at a FLAME tracking without importing it: does the head stand where the images show it? Exit code 1: no.

    Args:
        export: Folder of a tracking in any layout that can be imported.
        out: Folder to write NAME.check.png, the contact sheet, and NAME.check.json, the numbers, to.
        name: Whose tracking it is. Default is the folder's name; a subject's entry in the config holds for it.
        head: Model, masks and template of the head model. Default is the config's (flame.assets).
        json: For machines: the numbers as JSON on stdout.
    """
    needs_no_config = head is not None and not common.config and not Path("config.yaml").exists()
    pipeline = (replace(common, config=("{}",)) if needs_no_config else common).pipeline()
    from osgap.capture.importing.check import check as look
    from osgap.capture.importing.check import show, to_json
    from osgap.head.config import HeadAssets

    subject = name or export.resolve().name
    sheet = out / f"{subject}.check.png"
    examination = look(
        pipeline.config.capture,
        export,
        pipeline.head if head is None else HeadAssets(model=head[0], masks=head[1], template=head[2]),
        subject=subject,
        findings=sheet.with_suffix(".json"),
        sheet=sheet,
        seed=pipeline.config.seed,
        entry=pipeline.config.subjects.entry(subject),
    )
    if json:
        print(to_json(examination))
    else:
        show(examination)
        print(sheet)
    sys.exit(0 if examination.findings.sound else 1)


def _written(paths: list[Path]) -> None:
    print(paths[0] if len(paths) == 1 else f"{len(paths)} files in {paths[0].parent}")
