"""Where every artifact lies below the results folder. Rules and command line both ask here, and nowhere else.

Methods take a subject, or a wildcard such as `"{subject}"` when the Snakefile declares a rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Paths below one results folder."""

    results: Path

    # synthetic people -------------------------------------------------------------------------------------
    @property
    def synthetic_head(self) -> Path:
        """Folder of the synthetic head model's three files."""
        return self.results / "synthetic" / "head"

    @property
    def synthetic_nersemble(self) -> Path:
        """Root of the synthetic people's NeRSemble tree, served through a `file://` URL."""
        return self.results / "synthetic" / "nersemble"

    def synthetic_tracking(self, subject: str) -> Path:
        """Folder of one synthetic person's tracking, as a tracker writes it."""
        return self.results / "synthetic" / "tracking" / subject

    def synthetic_person(self, subject: str) -> Path:
        """Manifest of one synthetic person's files."""
        return self.results / "synthetic" / "people" / f"{subject}.json"

    # captures --------------------------------------------------------------------------------------------
    @property
    def raw(self) -> Path:
        """Root of the downloaded NeRSemble tree."""
        return self.results / "raw"

    def download(self, subject: str, sequence: str) -> Path:
        """Manifest of one downloaded sequence of one subject."""
        return self.results / "raw" / "manifests" / subject / f"{sequence}.json"

    def capture(self, subject: str) -> Path:
        """One subject's capture store."""
        return self.results / "captures" / f"{subject}.h5"

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
        return self.results / "prior"

    def oneshot(self, subject: str, supervision: str = "one_shot") -> Path:
        """A test person's avatar, by what could be seen of them: `oneshot/ID`, `few_shot/ID`, `all_frames/ID`."""
        return self.results / self.personalised(supervision) / subject

    @staticmethod
    def personalised(supervision: str) -> str:
        """The folder of all avatars, and of all logs and checkpoints, of one kind of supervision."""
        return "oneshot" if supervision == "one_shot" else supervision

    # results ---------------------------------------------------------------------------------------------
    def metrics(self, method: str, subject: str) -> Path:
        """What one method reaches on one subject."""
        return self.results / "metrics" / method / f"{subject}.json"

    @property
    def summary(self) -> Path:
        """The mean metrics of all methods."""
        return self.results / "metrics" / "summary.json"

    def table(self, split: str, suffix: str) -> Path:
        """A table of one evaluation split, in the format that the suffix says."""
        return self.results / "tables" / f"{split}.{suffix}"

    def figure(self, name: str) -> Path:
        """A figure by its name."""
        return self.results / "figures" / f"{name}.png"

    def video(self, subject: str) -> Path:
        """One subject's video."""
        return self.results / "videos" / f"{subject}.mp4"

    # housekeeping ----------------------------------------------------------------------------------------
    def checkpoints(self, stage: str, subject: str = "all") -> Path:
        """Undeclared in the rules: Snakemake deletes what it knows."""
        return self.results / "checkpoints" / stage / subject

    def events(self, stage: str) -> Path:
        """Folder for TensorBoard, undeclared like checkpoints: a run that goes on adds to it."""
        return self.results / "logs" / "tensorboard" / stage

    def log(self, stage: str, *names: str) -> Path:
        """A job's log."""
        *folders, last = (stage, *names)
        return self.results.joinpath("logs", *folders, f"{last}.log")
