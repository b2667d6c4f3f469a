"""One GPU for each process, on a machine with several: a lease that is a lock on a file.

Jobs that start side by side take different cards without being told: each holds the lock of its card's file until it
ends, and the system releases what a killed process held. Which cards they may take `osgap.runtime.allocation` says.

The config's `accelerator` says whether GPUs are used at all. A stage's `run` is told nothing of it, so the command line
says it for the process, and a notebook can:

    with using("cpu"):
        stage.run(...)
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout

from osgap.runtime.allocation import LEASED, VISIBLE, Allocation, find_allocation
from osgap.runtime.cards import describe_driver
from osgap.runtime.errors import UserError

if TYPE_CHECKING:
    import torch

Accelerator = Literal["auto", "cpu", "cuda"]
"""GPUs where there are any, else the CPU; or one of the two."""

_POLL_SECONDS = 0.5

_accelerator: ContextVar[Accelerator] = ContextVar("accelerator", default="auto")

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def using(accelerator: Accelerator) -> Iterator[None]:
    """Let stages that run inside the `with` compute on it."""
    token = _accelerator.set(accelerator)
    try:
        yield
    finally:
        _accelerator.reset(token)


def use(accelerator: Accelerator) -> None:
    """The same for the rest of the process."""
    _accelerator.set(accelerator)


def accelerator() -> Accelerator:
    """What is to be computed on here and now."""
    return _accelerator.get()


def device_type() -> Literal["cpu", "cuda"]:
    """What this process computes on. It asks torch for CUDA, which reads the environment once: lease before.

    Raises:
        UserError: a GPU is asked for (`accelerator`), or was given by a scheduler, and torch finds none.
    """
    if accelerator() == "cpu":
        return "cpu"
    allocation = find_allocation()
    if allocation.others:
        _leave_alone(allocation)
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if allocation.promised:
        raise UserError(_not_found(allocation))
    if accelerator() == "cuda":
        raise UserError(f"accelerator is cuda, but {_reason()}; set it to auto or cpu, or use a machine with a GPU")
    return "cpu"


@functools.cache
def pick_device() -> torch.device:
    """The device of this process until it ends: as `lease_gpu`, without giving the card back before.

    Raises:
        UserError: as `lease_gpu`.
    """
    return _until_exit.enter_context(lease_gpu())


_until_exit = contextlib.ExitStack()  # never closed: the system releases the lock


@contextlib.contextmanager
def lease_gpu() -> Iterator[torch.device]:
    """Hold one GPU that no other process of this user has leased; wait while all are taken.

    Call it before anything asks torch for CUDA: it restricts the process (and those that it starts) to the card by
    setting `CUDA_VISIBLE_DEVICES`, which CUDA reads once.

    Yields:
        `cuda:0`, the leased card; `cpu` where the process may use none, or with a torch that cannot use it.

    Raises:
        UserError: when CUDA was in use already, so that the card could not be chosen; or as `device_type` and `lease`.
    """
    allocation = _usable()
    with _hold(allocation, list(allocation.cards), 1):
        import torch

        yield torch.device("cuda", 0) if device_type() == "cuda" else torch.device("cpu")


@contextlib.contextmanager
def lease_gpus(count: int | Literal["auto"]) -> Iterator[None]:
    """Hold so many GPUs, or all that there are, for this process and those that it starts; as `lease_gpu`.

    Of partitions of cards it is one: CUDA shows no more of them to a process. Nothing is held where the environment
    has chosen the cards, or the process may use none.

    Raises:
        UserError: when there are fewer, or as `lease_gpu`.
    """
    allocation = _usable()
    whole = [name for name, card in allocation.cards.items() if not card.startswith("MIG-")]
    names = whole or list(allocation.cards)
    most = len(whole) or min(1, len(names))
    if names and count != "auto" and count > most:
        raise UserError(
            f"{count} GPUs are asked for, but {allocation.job or 'this machine'} has {len(whole)} whole ones"
            f"{f' ({VISIBLE}={os.environ[VISIBLE]})' if VISIBLE in os.environ else ''}; ask for fewer (of cards that "
            f"are partitioned, one partition is all that a process can use)"
        )
    with _hold(allocation, names, most if count == "auto" else count):
        if device_type() == "cuda" and names:
            import torch

            if (found := torch.cuda.device_count()) < (most if count == "auto" else count):
                raise UserError(f"{_given(allocation)}, but torch finds {found} of them; {_REMEDY}")
        yield


@contextlib.contextmanager
def _hold(allocation: Allocation, names: Sequence[str], count: int) -> Iterator[None]:
    """Lease so many of the cards, and show CUDA no others."""
    if allocation.chosen or not names or _is_cuda_in_use():
        yield
        return
    held: list[str] = []
    with contextlib.ExitStack() as stack:
        folder = lock_folder()
        # One process at a time collects several: two that have half of them each would wait for each other.
        waiting = "another process is collecting GPUs; waiting for it"
        with lease(["collecting"], folder, waiting) if count > 1 else contextlib.nullcontext():
            for _ in range(count):
                held.append(stack.enter_context(lease([name for name in names if name not in held], folder)))
        cards = [allocation.cards[name] for name in held]
        _log.info("using GPU %s", " and ".join(cards))
        stack.enter_context(_showing(",".join(cards)))
        if device_type() == "cuda":
            _check(cards[0])
        yield


@contextlib.contextmanager
def _showing(cards: str) -> Iterator[None]:
    """Let CUDA see these cards, and processes that are started from here know that they are held for them."""
    before = {name: os.environ.get(name) for name in (VISIBLE, LEASED)}
    os.environ.update({VISIBLE: cards, LEASED: cards})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _usable() -> Allocation:
    return Allocation(None, {}) if accelerator() == "cpu" else find_allocation()


def _is_cuda_in_use() -> bool:
    """Where the environment lists cards and CUDA has read it, the first of them is what this process goes on with."""
    torch = sys.modules.get("torch")
    return VISIBLE in os.environ and torch is not None and torch.cuda.is_initialized()


# what is said where there is none ------------------------------------------------------------------------
_REMEDY = "see what nvidia-smi says there, have the job run on another machine, or set accelerator to cpu"


def _given(allocation: Allocation) -> str:
    names = (VISIBLE, "SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE", "SLURM_GPUS")
    said = next((f" ({name}={os.environ[name]})" for name in names if os.environ.get(name)), "")
    count = allocation.promised or len(allocation.cards)
    return f"{allocation.job or 'this process'} has {count} GPU{'s' * (count > 1)} on {platform.node()}{said}"


def _not_found(allocation: Allocation) -> str:
    if "SLURM_JOB_ID" in os.environ and "SLURMD_NODENAME" not in os.environ:
        return (
            f"{_given(allocation)}, but this shell (of salloc) is not on the job's machine: {_reason()}; start it with "
            f"srun, or set accelerator to cpu"
        )
    return f"{_given(allocation)}, but {_reason()}; {_REMEDY}"


def _reason() -> str:
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built for the CPU only"
    driver = describe_driver()
    return f"torch {torch.__version__} finds none ({f'{driver[0]}, driver {driver[1]}' if driver else 'no driver'})"


def _leave_alone(allocation: Allocation) -> None:
    """Say that the machine's cards are not used.

    Raises:
        UserError: they are asked for.
    """
    count = f"{allocation.others} GPU{'s' * (allocation.others > 1)}"
    found = f"{allocation.job} asked for no GPU, although {platform.node()} has {count}, which may be given to others"
    remedy = (
        f"give the rule a GPU (--set-resources fit:gpu=1), or set {VISIBLE} in the job where the whole machine is yours"
    )
    if accelerator() == "cuda":
        raise UserError(f"accelerator is cuda, but {found}: {remedy}")
    _warn(f"{found}: COMPUTING ON THE CPU; {remedy}")


@functools.cache  # once is enough
def _warn(text: str) -> None:
    _log.warning(text)


# leases --------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def lease(gpus: Sequence[str], folder: Path, waiting: str | None = None) -> Iterator[str]:
    """Lock the first of `gpus` (unique names) that no other process has locked in `folder`, waiting for one.

    Args:
        waiting: what the log says while it waits. Default names them.

    Raises:
        UserError: when the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        waited = False
        while (held := _lock_one(gpus, folder)) is None:
            if not waited:
                names = ", ".join(gpus)
                _log.info(waiting or f"{names}: leased by other processes (locks in {folder}); waiting for one")
                waited = True
            time.sleep(_POLL_SECONDS)
    except OSError as error:
        raise UserError(
            f"{folder}: leases of GPUs are kept there, and it cannot be written ({error.strerror}). Choose a card "
            f"yourself by setting {VISIBLE}"
        ) from error
    gpu, lock = held
    try:
        yield gpu
    finally:
        lock.release()


def _lock_one(gpus: Sequence[str], folder: Path) -> tuple[str, FileLock] | None:
    for gpu in gpus:
        lock = FileLock(folder / f"{gpu}.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        return gpu, lock
    return None


def lock_folder() -> Path:
    """Where this user's leases on this machine are.

    In the temporary folder and not in `XDG_RUNTIME_DIR`, which is gone once the user has logged out while jobs run on.
    """
    return Path(tempfile.gettempdir()) / f"osgap-gpus-{os.getuid()}"


def _check(gpu: str) -> None:
    """CUDA may have read the environment before it was set here, and would then put every process on the first card."""
    import torch

    found = str(torch.cuda.get_device_properties(0).uuid)
    if gpu.startswith("GPU-") and found != gpu.removeprefix("GPU-"):
        raise UserError(
            f"GPU {gpu} was leased, but CUDA has been in use in this process before and shows GPU-{found} as the "
            f"first; set {VISIBLE}={gpu} before starting it"
        )
