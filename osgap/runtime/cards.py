"""The NVIDIA cards of this machine, as the driver's management library tells of them; CUDA is not initialised."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


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
