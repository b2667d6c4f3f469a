"""Which of a machine's GPUs are this process's: what a scheduler, or a user, has said in the environment.

================================================  =====================================================================
the process finds                                 its cards
================================================  =====================================================================
no scheduler; no `CUDA_VISIBLE_DEVICES`           all of the machine; each process leases one
no scheduler; one card in it                      that one, which is shared with whoever was told the same
no scheduler; several                             these; each process leases one of them
no scheduler; none in it (empty)                  none
a scheduler's job; cards in it                    these; the processes of the job lease them from each other
a Slurm job with GPUs, but without the variable   those of `SLURM_STEP_GPUS` or `SLURM_JOB_GPUS`; all that can be seen
                                                  where a control group hides the others
a job that asked for no GPU                       none, whatever the machine has: they may be others'
the variable as a leaseholder has set it          what it holds: this process is a part of its job
================================================  =====================================================================

A scheduler is known by the number that it gives a job. So a terminal within a job (`srun --pty`), a script that was
submitted by hand and a Snakemake that runs its jobs inside an allocation are the same: what the job was given is used.
A cluster that gives whole nodes and knows of no GPUs sets `CUDA_VISIBLE_DEVICES` to all of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from osgap.runtime.cards import list_gpus

VISIBLE = "CUDA_VISIBLE_DEVICES"
LEASED = "OSGAP_LEASED_GPUS"
"""Environment variable that a leaseholder sets beside `CUDA_VISIBLE_DEVICES`, to the same."""

_SCHEDULERS = {"SLURM_JOB_ID": "Slurm", "PBS_JOBID": "PBS", "LSB_JOBID": "LSF"}
_SLURM_LISTS = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
_SLURM_COUNTS = ("SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_TASK", "SLURM_GPUS")


@dataclass(frozen=True)
class Allocation:
    """The cards that a process may use."""

    job: str | None
    """The scheduler's, such as `Slurm job 17`."""
    cards: Mapping[str, str]
    """A name for each that is unique on this machine -> the card, as `CUDA_VISIBLE_DEVICES` takes it."""
    promised: int = 0
    """How many the scheduler has given to the job on this machine, as far as it says so."""
    chosen: bool = False
    """Whether the environment shows the process just these already, and nobody else is to take one of them."""
    others: int = 0
    """How many cards of the machine are left alone, because the job asked for none."""


def scheduler_job(environment: Mapping[str, str] | None = None) -> str | None:
    """The scheduler's job that this process is a part of, such as `Slurm job 17`."""
    environment = os.environ if environment is None else environment
    found = ((name, environment.get(variable)) for variable, name in _SCHEDULERS.items())
    return next((f"{name} job {number}" for name, number in found if number), None)


def find_allocation(environment: Mapping[str, str] | None = None) -> Allocation:
    """What the environment says; see the table above."""
    environment = os.environ if environment is None else environment
    job = scheduler_job(environment)
    visible = environment.get(VISIBLE)
    if visible is None:
        return _everything() if job is None else _granted(job, environment)
    cards = _listed(visible)
    promised = 0 if job is None else len(cards) or _promised(environment)
    if visible == environment.get(LEASED):
        return Allocation(job, dict(zip(cards, cards, strict=True)), promised, chosen=True)
    return Allocation(job, _named(job, cards), promised, chosen=job is None and len(cards) < 2)


def _everything() -> Allocation:
    gpus = list_gpus()
    return Allocation(None, dict(zip(gpus, gpus, strict=True)))


def _granted(job: str, environment: Mapping[str, str]) -> Allocation:
    """Of a job to which nobody has said which cards CUDA is to show."""
    gpus, promised = list_gpus(), _promised(environment)
    if not promised:
        return Allocation(job, {}, others=len(gpus))
    numbers = next((_listed(environment[name]) for name in _SLURM_LISTS if environment.get(name)), [])
    if numbers and len(gpus) > len(numbers):
        return Allocation(job, _named(job, numbers), promised)
    return Allocation(job, dict(zip(gpus, gpus, strict=True)), promised)


def _promised(environment: Mapping[str, str]) -> int:
    """How many GPUs Slurm says that it gave; `SLURM_GPUS` and its like may have a kind before each number."""
    for name in _SLURM_LISTS:
        if cards := _listed(environment.get(name, "")):
            return len(cards)
    for name in _SLURM_COUNTS:
        if counts := re.findall(r"(?:^|[,:])(\d+)(?=,|$)", environment.get(name, "")):
            return sum(map(int, counts))
    return 0


def _listed(visible: str) -> list[str]:
    """The cards of `CUDA_VISIBLE_DEVICES`: CUDA reads it up to the first that is none, such as -1 or NoDevFiles."""
    cards: list[str] = []
    for card in map(str.strip, visible.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", card):
            break
        cards.append(card)
    return cards


def _named(job: str | None, cards: Sequence[str]) -> dict[str, str]:
    """Numbers become names: in a job they may mean other cards than in another, which a control group shows others."""
    if job is not None:
        return {re.sub(r"\W+", "-", f"{job} {card}"): card for card in cards}
    gpus = list_gpus()
    places = {str(index): gpu for index, gpu in enumerate(gpus)} if not any(g.startswith("MIG-") for g in gpus) else {}
    return {re.sub(r"[^\w-]+", "-", places.get(card, card)): card for card in cards}
