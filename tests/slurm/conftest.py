"""Clusters for tests, and the run on this machine that they are compared with."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from workflow.conftest import Checkout, checkout, finished

from .cluster import PACKAGES, Cluster, ClusterError, missing
from .files import Options
from .runs import STARTED, kill

__all__ = ["checkout", "finished"]  # fixtures here as well

TESTED = "22.05"


@pytest.fixture(autouse=True)
def no_snakemake_is_left() -> Iterator[None]:
    """Whatever became of the test."""
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            kill(process)


@pytest.fixture
def start_cluster() -> Iterator[Callable[..., Cluster]]:
    """Start a cluster with these `Options`; it ends with the test. It takes half a second, so none is shared."""
    started: list[Cluster] = []

    def start(**options: object) -> Cluster:
        chosen = Options(**options)  # type: ignore[arg-type]
        absent = missing(chosen.slurmdbd)
        if absent:
            pytest.skip(f"not on this machine: {', '.join(absent)}; Debian has them: {PACKAGES}")
        # Not in pytest's own folder: the paths of sockets must be short.
        cluster = Cluster(Path(tempfile.mkdtemp(prefix="osgap-slurm-")), chosen)
        started.append(cluster)
        try:
            cluster.start()
        except ClusterError as error:
            if TESTED in (version := cluster.run("sbatch", "--version").strip()):
                raise
            pytest.skip(f"{version} does not start as {TESTED} of Debian 12 does: {error}")
        return cluster

    yield start
    for cluster in started:
        cluster.stop()
        shutil.rmtree(cluster.folder, ignore_errors=True)


@pytest.fixture
def cluster(start_cluster: Callable[..., Cluster]) -> Cluster:
    """One node with two GPUs, without slurmdbd."""
    return start_cluster()


@pytest.fixture
def emptied(finished: Checkout, tmp_path: Path) -> Checkout:
    """A copy of the checkout in which the reduced demo has run, without the results."""
    target = tmp_path / "checkout"
    left_out = shutil.ignore_patterns("results", ".snakemake")
    shutil.copytree(finished.root, target, symlinks=True, copy_function=shutil.copy2, ignore=left_out)
    return Checkout(target)


@pytest.fixture
def halfway(checkout: Checkout) -> Checkout:
    """A copy that lacks the test person's fit and the prior, and what follows from them."""
    for name in ("avatars/201", "prior", "oneshot", "metrics", "tables", "checkpoints"):
        shutil.rmtree(checkout.results / name)
    return checkout
