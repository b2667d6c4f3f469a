"""People and a head model that this project did not make go through the whole workflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from osgap.capture.store import CaptureStore
from osgap.runtime.artifacts import read_provenance
from osgap.splat.avatar import Avatar

from .conftest import make_checkout

pytestmark = pytest.mark.slow

SETTINGS = {
    "accelerator": "cpu",
    "subjects": {"train": ["subject_000"], "test": ["subject_001"]},
    "fit": {"uv_size": 64, "iterations": 60, "images_per_step": 2, "initial_opacity": 0.7},
    "prior": {
        "encoder": {
            "input_size": 64,
            "width": 8,
            "token_width": 32,
            "residual_blocks": [1, 1],
            "attention_blocks": 1,
            "dilations": [2, 4, 6],
        },
        "steps": 4,
        "warmup": 1,
        "precision": "32-true",
        "workers": 0,
    },
    "oneshot": {"steps": 8, "calibration_people": 1, "losses": {"coverage": 0.0}},  # a prior of four steps has holes
    "report": {"video_seconds": 0.5, "video_scale": 0.5},
}


def test_people_of_another_topology_become_avatars(shared: Path, tmp_path: Path) -> None:
    people = shared / "captures_cc0"
    checkout = make_checkout(tmp_path / "checkout")
    model = people / "model"
    settings = SETTINGS | {
        "results": str(tmp_path / "results"),
        "flame": {
            "assets": {
                "model": str(model / "head_model.pkl"),
                "masks": str(model / "head_masks.pkl"),
                "template": str(model / "head_template.obj"),
            }
        },
        "capture": {"download": False, "tracking": f"{people}/{{subject}}"},
    }
    (tmp_path / "people.yaml").write_text(yaml.safe_dump(settings))
    checkout.run("snakemake", "--cores", "2", "--configfile", str(tmp_path / "people.yaml"))

    results = tmp_path / "results"
    store = CaptureStore(results / "captures" / "subject_000.h5")
    for split in ("train", "val", "test"):
        listed = json.loads((people / "subject_000" / f"transforms_{split}.json").read_text())["frames"]
        assert len(store.split(split)) == len(listed)
    first = (people / "subject_000" / "images" / "00000_00.png").read_bytes()
    assert store.encoded_image(0, 0) == first
    assert store.params.static_offset.shape == (5274, 3), "no teeth where the topology is not FLAME's"

    avatar = Avatar.load(results / "oneshot" / "subject_001")
    assert len(avatar.faces) == len(Avatar.load(results / "avatars" / "subject_000").faces)
    provenance = read_provenance(results / "oneshot" / "subject_001" / "point_cloud.ply")
    assert provenance is not None
    assert provenance["subject"] == "subject_001"
    summary = json.loads((results / "metrics" / "summary.json").read_text())
    assert summary["fit"]["self_reenactment"]["psnr"] > summary["mean_avatar"]["self_reenactment"]["psnr"]
    assert (results / "videos" / "subject_001.mp4").stat().st_size > 0
