"""Load a head model from its three files, and refuse files that do not belong together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from osgap.head.model import HeadModel
from osgap.head.obj import Template, read_template
from osgap.head.params import N_EXPR, N_SHAPE
from osgap.head.pickles import dense, read_pickle
from osgap.head.teeth import add_teeth, has_flame_topology
from osgap.runtime.errors import UserError

if TYPE_CHECKING:
    from osgap.head.config import HeadAssets

JOINTS = ("root", "neck", "jaw", "left_eye", "right_eye")
_POSE_FEATURES = 9 * (len(JOINTS) - 1)
_KEYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")


def load_head(assets: HeadAssets) -> HeadModel:
    """Load a head model in FLAME's format (FLAME 2020, FLAME 2023, or any mesh with the same keys and joints).

    A model with FLAME's topology gets teeth, as in GaussianAvatars; any other is taken as it is.

    Raises:
        UserError: when a file is absent, damaged, unsafe, or does not fit the others; names the file, what was found
            and what was expected.
    """
    model_path, mask_path, template_path = Path(assets.model), Path(assets.masks), Path(assets.template)
    arrays = _read_model(model_path)
    template = read_template(template_path)
    vertex_count = len(arrays["v_template"])
    _check_template(template, arrays["faces"], vertex_count, template_path, model_path)
    masks = _read_masks(mask_path, vertex_count, model_path)
    arrays |= {"uvs": template.uvs, "uv_faces": template.uv_faces}

    parents = tuple(arrays.pop("parents").tolist())
    is_flame = has_flame_topology(vertex_count, len(arrays["faces"]))
    if is_flame:
        arrays, masks = add_teeth(arrays, masks, N_SHAPE)
    arrays["posedirs"] = arrays["posedirs"].reshape(-1, _POSE_FEATURES).T
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    return HeadModel(
        v_template=tensors["v_template"],
        shapedirs=tensors["shapedirs"],
        posedirs=tensors["posedirs"],
        joint_regressor=tensors["joint_regressor"],
        parents=parents,
        skinning_weights=tensors["skinning_weights"],
        faces=tensors["faces"],
        uvs=tensors["uvs"],
        uv_faces=tensors["uv_faces"],
        masks={name: torch.from_numpy(ids) for name, ids in masks.items()},
        is_flame=is_flame,
    )


def _read_model(path: Path) -> dict[str, np.ndarray]:
    """The pickle's arrays by the names that `HeadModel` gives them, checked against each other."""
    content = read_pickle(path)
    missing = [key for key in _KEYS if key not in content]
    if missing:
        raise UserError(
            f"{path}: lacks {', '.join(missing)}; found {', '.join(map(str, sorted(content, key=str))) or 'nothing'}. "
            f"A head model in FLAME's format has {', '.join(_KEYS)}; check that flame.assets.model names one."
        )
    raw = {key: dense(content[key], path, key) for key in _KEYS}
    count = len(raw["v_template"]) if raw["v_template"].ndim else 0
    faces = len(raw["f"]) if raw["f"].ndim else 0
    expected: dict[str, tuple[int, ...]] = {
        "v_template": (count, 3),
        "shapedirs": (count, 3, N_SHAPE + N_EXPR),
        "posedirs": (count, 3, _POSE_FEATURES),
        "J_regressor": (len(JOINTS), count),
        "weights": (count, len(JOINTS)),
        "kintree_table": (2, len(JOINTS)),
        "f": (faces, 3),
    }
    for key, shape in expected.items():
        if raw[key].shape != shape or 0 in shape:
            raise UserError(
                f"{path}: {key} has shape {raw[key].shape}, expected {shape} for {count} vertices and the joints "
                f"{', '.join(JOINTS)}. Use the full model (300 identity and 100 expression directions)."
            )
        if not np.isfinite(raw[key]).all():
            where = np.argwhere(~np.isfinite(raw[key]))[0].tolist()
            raise UserError(f"{path}: {key}{where} is not a finite number. Use an unmodified model file.")

    triangles = raw["f"].astype(np.int64)
    if triangles.min() < 0 or triangles.max() >= count:
        bad = int(triangles.min() if triangles.min() < 0 else triangles.max())
        raise UserError(
            f"{path}: f refers to vertex {bad}, but there are {count} vertices. Use an unmodified model file."
        )
    parents = raw["kintree_table"][0].astype(np.int64)
    parents[0] = -1  # stored as 2**32 - 1
    if any(not 0 <= parent < joint for joint, parent in enumerate(parents.tolist()) if joint):
        raise UserError(
            f"{path}: kintree_table gives the parents {parents.tolist()}; expected is a tree of the joints "
            f"{', '.join(JOINTS)} in which parents come before children, such as [-1, 0, 1, 1, 1]. Use an "
            f"unmodified model file."
        )
    single = {
        "v_template": raw["v_template"],
        "shapedirs": raw["shapedirs"],
        "posedirs": raw["posedirs"],
        "joint_regressor": raw["J_regressor"],
        "skinning_weights": raw["weights"],
    }
    return {name: array.astype(np.float32) for name, array in single.items()} | {"faces": triangles, "parents": parents}


def _check_template(template: Template, faces: np.ndarray, count: int, path: Path, model_path: Path) -> None:
    advice = "Use the template OBJ and the model of one release."
    if template.vertex_count != count:
        raise UserError(f"{path}: has {template.vertex_count} vertices, but {model_path} has {count}. {advice}")
    if template.faces.shape != faces.shape:
        raise UserError(f"{path}: has {len(template.faces)} faces, but {model_path} has {len(faces)}. {advice}")
    different = np.flatnonzero((template.faces != faces).any(-1))
    if len(different):
        first = int(different[0])
        raise UserError(
            f"{path}: {len(different)} of {len(faces)} faces differ from f of {model_path}; face {first} is "
            f"{template.faces[first].tolist()} here and {faces[first].tolist()} there (counted from 0). {advice}"
        )


def _read_masks(path: Path, vertex_count: int, model_path: Path) -> dict[str, np.ndarray]:
    """Region -> vertex ids, int64."""
    masks = {}
    for region, value in read_pickle(path).items():
        ids = dense(value, path, str(region))
        if ids.ndim != 1 or not np.array_equal(ids, ids.astype(np.int64)):
            found = f"{ids.dtype} of shape {ids.shape}"
            raise UserError(
                f"{path}: region {region} is {found}; a list of vertex ids is expected. Use the masks that belong to "
                f"the model."
            )
        ids = ids.astype(np.int64)
        if len(ids) and (ids.min() < 0 or ids.max() >= vertex_count):
            bad = int(ids.min() if ids.min() < 0 else ids.max())
            raise UserError(
                f"{path}: region {region} contains vertex {bad}, but {model_path} has {vertex_count} vertices. Use the "
                f"masks that belong to the model."
            )
        masks[str(region)] = ids
    return masks
