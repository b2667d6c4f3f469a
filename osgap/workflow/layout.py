"""Where every artifact lies below the results folder. Rules and command line both ask here, and nowhere else.

Methods take a subject, or a wildcard such as `"{subject}"` when the Snakefile declares a rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from osgap.evaluation.methods import SPLIT_TABLES, SUFFIXES
from osgap.head.config import HeadAssets


@dataclass(frozen=True)
class Layout:
    """Paths below one results folder, as one experiment has them.

    What follows the fits has parts that an experiment may have for itself: `prior`, each supervision, `metrics/METHOD`,
    `report`. All else is the dataset's.
    """

    results: Path
    places: Mapping[str, str] = field(default_factory=dict)
    """Part -> the folder below `results` that it lies in, with a slash at its end."""
    place: str = ""
    """That of the parts that `places` does not name: the results folder itself, or a wildcard."""

    def _in(self, part: str | None, *names: str) -> Path:
        """A path of a part, or of the dataset."""
        place = "" if part is None else self.places.get(part, self.place)
        return Path(f"{self.results}/{place}{'/'.join(names)}")

    # synthetic people -------------------------------------------------------------------------------------
    @property
    def synthetic(self) -> Path:
        """Folder of all that is made in place of licensed data."""
        return self.results / "synthetic"

    @property
    def synthetic_head(self) -> HeadAssets:
        """The head model, named as FLAME's."""
        folder = self.synthetic / "head"
        return HeadAssets(
            model=folder / "flame2023.pkl",
            masks=folder / "FLAME_masks.pkl",
            template=folder / "head_template_mesh.obj",
        )

    @property
    def synthetic_nersemble(self) -> Path:
        """Root of the NeRSemble tree."""
        return self.synthetic / "nersemble"

    def synthetic_tracking(self, subject: str) -> Path:
        """Folder of one person's exports."""
        return self.synthetic / "tracking" / subject

    def synthetic_person(self, subject: str) -> Path:
        """Manifest of one synthetic person's files; written last."""
        return self.synthetic / "people" / f"{subject}.json"

    # captures --------------------------------------------------------------------------------------------
    @property
    def raw(self) -> Path:
        """Root of the downloaded NeRSemble tree."""
        return self.results / "raw"

    def download(self, subject: str) -> Path:
        """Manifest of one subject's downloaded sequences."""
        return self.results / "raw" / "manifests" / f"{subject}.json"

    def capture(self, subject: str) -> Path:
        """One subject's capture store."""
        return self.results / "captures" / f"{subject}.h5"

    def findings(self, subject: str) -> Path:
        """What its import found of cameras and sequences, and what was assumed."""
        return self.results / "captures" / f"{subject}.json"

    def sheet(self, subject: str) -> Path:
        """Its contact sheet: the tracked head and the masks over the images."""
        return self.results / "captures" / f"{subject}.png"

    # avatars ---------------------------------------------------------------------------------------------
    def fit(self, subject: str) -> Path:
        """Folder of one subject's fitted avatar."""
        return self.results / "avatars" / subject

    def uv_gt(self, subject: str) -> Path:
        """That avatar as UV maps."""
        return self.results / "uv_gt" / f"{subject}.npz"

    @property
    def prior(self) -> Path:
        """Folder of the trained prior."""
        return self._in("prior", "prior")

    def oneshot(self, subject: str, supervision: str = "one_shot") -> Path:
        """A test person's avatar, by what could be seen of them: `oneshot/ID`, `few_shot/ID`, `all_frames/ID`."""
        return self._in(supervision, self.personalised(supervision), subject)

    def calibration(self, supervision: str) -> Path:
        """How far the avatars of one kind of supervision may leave the prior's answer; beside them."""
        return self._in(supervision, self.personalised(supervision), "calibration.json")

    @staticmethod
    def personalised(supervision: str) -> str:
        """The folder of all avatars, and of all logs and checkpoints, of one kind of supervision."""
        return "oneshot" if supervision == "one_shot" else supervision

    # results ---------------------------------------------------------------------------------------------
    def metrics(self, method: str, subject: str) -> Path:
        """What one method reaches on one subject."""
        return self._in(f"metrics/{method}", "metrics", method, f"{subject}.json")

    @property
    def summary(self) -> Path:
        """The mean metrics of all methods."""
        return self._in("report", "metrics", "summary.json")

    def table(self, split: str, suffix: str) -> Path:
        """A table of one evaluation split, in the format that the suffix says."""
        return self._in("report", "tables", f"{split}.{suffix}")

    def ablation(self, split: str, suffix: str) -> Path:
        """The table of one evaluation split that compares the experiments."""
        return self.results / "experiments" / f"{split}.{suffix}"

    @property
    def tables(self) -> dict[tuple[str, str], Path]:
        """(evaluation split, suffix) -> table."""
        return {(split, suffix): self.table(split, suffix) for split in SPLIT_TABLES for suffix in SUFFIXES}

    @property
    def ablations(self) -> dict[tuple[str, str], Path]:
        """The same of the tables that compare the experiments."""
        return {(split, suffix): self.ablation(split, suffix) for split in SPLIT_TABLES for suffix in SUFFIXES}

    @property
    def ablation_summary(self) -> Path:
        """The mean metrics of all experiments."""
        return self.results / "experiments" / "summary.json"

    def figure(self, name: str) -> Path:
        """A figure by its name."""
        return self._in("report", "figures", f"{name}.png")

    def video(self, subject: str) -> Path:
        """One subject's video."""
        return self._in("report", "videos", f"{subject}.mp4")

    # housekeeping ----------------------------------------------------------------------------------------
    @property
    def accepted(self) -> Path:
        """What `osgap accept` writes."""
        return self.results / "accepted.json"

    @property
    def record(self) -> Path:
        """What the last `snakemake` was told."""
        return self.results / "run.json"

    @property
    def lock(self) -> Path:
        """Held by the `snakemake` that is at work on the results folder."""
        return self.results / "run.lock"

    @property
    def slurm_logs(self) -> Path:
        """Folder of what Slurm writes of each job."""
        return self.results / "logs" / "slurm"

    def checkpoints(self, stage: str, subject: str = "all") -> Path:
        """Undeclared in the rules: Snakemake deletes what it knows."""
        return self._in(_part_of(stage), "checkpoints", stage, subject)

    def events(self, stage: str) -> Path:
        """Folder for TensorBoard, undeclared like checkpoints: a run that goes on adds to it."""
        return self._in(_part_of(stage), "logs", "tensorboard", stage)

    def log(self, stage: str, *names: str) -> Path:
        """A job's log.

        Args:
            stage: as its folder is called.
            names: wildcards of the rule; of `evaluate` the method comes first.
        """
        *folders, last = (stage, *names)
        return self._in(_part_of(stage, *names), "logs", *folders, f"{last}.log")


_PARTS = {"train": "prior", "oneshot": "one_shot", "few_shot": "few_shot", "all_frames": "all_frames"}
_PARTS |= {"{folder}": "one_shot"}  # the wildcard of all personalised avatars
_REPORTS = ("tables", "figure", "video")


def _part_of(stage: str, *names: str) -> str | None:
    """The part that a stage's logs and checkpoints go with; None for the dataset's."""
    if stage == "evaluate":
        return f"metrics/{names[0]}"
    if stage == "calibrate":
        return _PARTS[names[0]]
    return "report" if stage in _REPORTS else _PARTS.get(stage)
