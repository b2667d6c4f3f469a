"""What differs from one cluster to another: the section `cluster`, and what it makes of a rule's needs."""

from __future__ import annotations

from typing import Literal

from osgap.runtime.section import Section


class ClusterConfig(Section):
    """Names of a Slurm cluster, for jobs that `--profile slurm` submits; `profiles/slurm/site.yaml` is the place."""

    partition: str | None = None
    """Partition of jobs without a GPU. Default is the cluster's own."""
    gpu_partition: str | None = None
    """Partition of jobs with a GPU. Default is `partition`."""
    account: str | None = None
    """Account that jobs are charged to."""
    gpu_account: str | None = None
    """Account of jobs with a GPU. Default is `account`."""
    qos: str | None = None
    """Quality of service of jobs without a GPU."""
    gpu_qos: str | None = None
    """Quality of service of jobs with a GPU. Default is `qos`."""
    constraint: str | None = None
    """Features that a GPU job's node must have, such as `h100|h200`."""
    gpu: Literal["gpus", "gres", "per_task"] = "gpus"
    """How the cluster wants GPUs to be asked for: `--gpus=N`, `--gres=gpu:N`, or `--gpus-per-task=N`."""
    gpu_model: str | None = None
    """Kind of GPU, by the cluster's name of it (`sinfo -o %G`). Default is any."""
    extra: str | None = None
    """Further arguments of `sbatch`, for every job."""
    gpu_extra: str | None = None
    """Further arguments of `sbatch`, for jobs with a GPU."""

    def request(self, gpus: int, nodes: int = 1) -> dict[str, int | str]:
        """Resources of Snakemake's Slurm executor for a job.

        Args:
            gpus: how many the job needs on each node; 0 for none.
            nodes: on how many nodes it runs, with a process for each GPU.
        """
        found: dict[str, int | str | None] = {
            "slurm_partition": (self.gpu_partition if gpus else None) or self.partition,
            "slurm_account": (self.gpu_account if gpus else None) or self.account,
            "qos": (self.gpu_qos if gpus else None) or self.qos,
            "constraint": self.constraint if gpus else None,
        }
        extra = [self.extra, self.gpu_extra if gpus else None]
        model = f"{self.gpu_model}:" if self.gpu_model else ""
        if gpus and self.gpu == "gpus":
            found |= {"gpu": gpus * nodes, "gpu_model": self.gpu_model}
        elif gpus and self.gpu == "gres":
            found["gres"] = f"gpu:{model}{gpus}"
        elif gpus:
            extra.append(f"--gpus-per-task={model}{gpus if nodes == 1 else 1}")
        if given := " ".join(filter(None, extra)):
            # In place of the profile's own: the log of a job that starts again goes on.
            found["slurm_extra"] = f"--open-mode=append {given}"
        return {name: value for name, value in found.items() if value is not None}
