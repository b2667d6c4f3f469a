"""One GPU for each process, on a machine with several: a lease that is a lock on a file.

Jobs that start side by side take different cards without being told: each holds the lock of its card's file until it
ends, and the system releases what a killed process held. A scheduler that has chosen already (`CUDA_VISIBLE_DEVICES`)
is obeyed, and so is this module's own choice in the processes that a leaseholder starts.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout

from osgap.runtime.errors import UserError

if TYPE_CHECKING:
    import torch

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_POLL_SECONDS = 0.5


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
        `cuda:0`, the leased card, or the first of those that `CUDA_VISIBLE_DEVICES` lists where that is set; `cpu` on
        a machine without GPUs or with a torch that cannot use them.

    Raises:
        UserError: when CUDA was in use already, so that the card could not be chosen; or as `lease`.
    """
    if _VISIBLE in os.environ:
        yield _first_device()
        return
    gpus = list_gpus()
    if not gpus:
        yield _first_device()
        return
    with lease(gpus, lock_folder()) as gpu:
        logging.getLogger(__name__).info("using GPU %s", gpu)
        os.environ[_VISIBLE] = gpu
        try:
            device = _first_device()
            if device.type == "cuda":
                _check(gpu)
            yield device
        finally:
            del os.environ[_VISIBLE]


@contextlib.contextmanager
def lease_gpus(count: int | Literal["auto"]) -> Iterator[None]:
    """Hold so many GPUs, or all that there are, for this process and those that it starts; as `lease_gpu`.

    Of partitions of cards it is one: CUDA shows no more of them to a process. Nothing is held where
    `CUDA_VISIBLE_DEVICES` is set, or without GPUs.

    Raises:
        UserError: when the machine has fewer, or as `lease_gpu`.
    """
    gpus = [] if _VISIBLE in os.environ else list_gpus()
    if not gpus:
        yield
        return
    whole = [gpu for gpu in gpus if gpu.startswith("GPU-")]
    most = len(whole) or 1
    if count != "auto" and count > most:
        raise UserError(
            f"{count} GPUs are asked for, but this machine has {len(whole)} whole ones; ask for fewer (of cards that "
            f"are partitioned, one partition is all that a process can use)"
        )
    held: list[str] = []
    with contextlib.ExitStack() as stack:
        folder = lock_folder()
        # One process at a time collects several: two that have half of them each would wait for each other.
        with lease(["collecting"], folder, "another process is collecting GPUs; waiting for it"):
            for _ in range(most if count == "auto" else count):
                free = [gpu for gpu in whole or gpus if gpu not in held]
                held.append(stack.enter_context(lease(free, folder)))
        logging.getLogger(__name__).info("using GPU %s", " and ".join(held))
        os.environ[_VISIBLE] = ",".join(held)
        try:
            if _first_device().type == "cuda":
                _check(held[0])
            yield
        finally:
            del os.environ[_VISIBLE]


@contextlib.contextmanager
def lease(gpus: Sequence[str], folder: Path, waiting: str | None = None) -> Iterator[str]:
    """Lock the first of `gpus` (unique names) that no other process has locked in `folder`, waiting for one.

    Args:
        waiting: what the log says while it waits. Default names them.

    Raises:
        UserError: when the folder cannot be written to.
    """
    log = logging.getLogger(__name__)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        waited = False
        while (held := _lock_one(gpus, folder)) is None:
            if not waited:
                names = ", ".join(gpus)
                log.info(waiting or f"{names}: leased by other processes (locks in {folder}); waiting for one")
                waited = True
            time.sleep(_POLL_SECONDS)
    except OSError as error:
        raise UserError(
            f"{folder}: leases of GPUs are kept there, and it cannot be written ({error.strerror}). Choose a card "
            f"yourself by setting {_VISIBLE}"
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


def list_gpus() -> list[str]:
    """Unique names (`GPU-...`) of the NVIDIA GPUs that this process may use; none without a driver.

    A card that is partitioned counts as its partitions (`MIG-...`). CUDA is not initialised, and `CUDA_VISIBLE_DEVICES`
    is not looked at: it is CUDA's to understand.
    """
    names = []
    with _cards() as (nvml, cards):
        for card in cards:
            with contextlib.suppress(nvml.NVMLError):  # it has failed since
                names += _partitions(nvml, card) or [nvml.nvmlDeviceGetUUID(card)]
    return names


def describe_driver() -> tuple[str, str] | None:
    """Name of the first NVIDIA GPU that this process may use and its driver's version; None without one."""
    with _cards() as (nvml, cards):
        return (nvml.nvmlDeviceGetName(cards[0]), nvml.nvmlSystemGetDriverVersion()) if cards else None


@contextlib.contextmanager
def _cards() -> Iterator[tuple[Any, list[Any]]]:
    """NVIDIA's management library while it is initialised, and its handles of the cards that answer.

    It counts all cards of the machine; those that a scheduler's control group hides, or that are broken, do not answer.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver, or one that has no card
        yield pynvml, []
        return
    try:
        cards = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            with contextlib.suppress(pynvml.NVMLError):
                cards.append(pynvml.nvmlDeviceGetHandleByIndex(index))
        yield pynvml, cards
    finally:
        pynvml.nvmlShutdown()


def _partitions(nvml: Any, card: Any) -> list[str]:
    """Unique names of a card's partitions that this process may use."""
    found = []
    with contextlib.suppress(nvml.NVMLError):  # a card, or a driver, that knows no partitions
        if nvml.nvmlDeviceGetMigMode(card)[0] == nvml.NVML_DEVICE_MIG_ENABLE:
            for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(card)):
                with contextlib.suppress(nvml.NVMLError):  # fewer than there can be, or somebody else's
                    part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, index)
                    found.append(nvml.nvmlDeviceGetUUID(part))
    return found


def _first_device() -> torch.device:
    import torch

    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def _check(gpu: str) -> None:
    """CUDA may have read the environment before it was set here, and would then put every process on the first card."""
    import torch

    found = str(torch.cuda.get_device_properties(0).uuid)
    if gpu.startswith("GPU-") and found != gpu.removeprefix("GPU-"):
        raise UserError(
            f"GPU {gpu} was leased, but CUDA has been in use in this process before and shows GPU-{found} as the "
            f"first; set {_VISIBLE}={gpu} before starting it"
        )
