"""A machine's cards as NVIDIA's management library tells of them: `install` puts a module in the place of `pynvml`.

The module is this file, also in the processes that a test starts. The cards are in the environment, as JSON: None where
there is no driver; else a list of `{"uuid": ..., "name": ...}`, with `"partitions"` where partitioning is switched on
(unique names, None for a place where none is), and `"hidden"` where a control group denies access.
"""

# ruff: noqa: N801, N802, N818 (the library's names)

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

VARIABLE = "OSGAP_TEST_CARDS"
DRIVER = "580.159"


def install(monkeypatch: Any, folder: Path, cards: list[dict[str, Any]] | None) -> None:
    """In this process and those that it starts, until the test ends."""
    site = folder / "nvml"
    site.mkdir(exist_ok=True)
    shutil.copy(__file__, site / "pynvml.py")
    monkeypatch.setenv(VARIABLE, json.dumps(cards))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])]))
    spec = importlib.util.spec_from_file_location("pynvml", site / "pynvml.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "pynvml", module)


NVML_DEVICE_MIG_ENABLE = 1


class NVMLError(Exception):
    pass


class NVMLError_LibraryNotFound(NVMLError):
    pass


class NVMLError_Uninitialized(NVMLError):
    pass


class NVMLError_NoPermission(NVMLError):
    pass


class NVMLError_NotSupported(NVMLError):
    pass


class NVMLError_NotFound(NVMLError):
    pass


_users = 0


def nvmlInit() -> None:
    global _users
    if json.loads(os.environ[VARIABLE]) is None:
        raise NVMLError_LibraryNotFound
    _users += 1


def nvmlShutdown() -> None:
    global _users
    _cards()
    _users -= 1


def _cards() -> list[dict[str, Any]]:
    if not _users:
        raise NVMLError_Uninitialized
    cards: list[dict[str, Any]] = json.loads(os.environ[VARIABLE])
    return cards


def nvmlSystemGetDriverVersion() -> str:
    _cards()
    return DRIVER


def nvmlDeviceGetCount() -> int:
    return len(_cards())


def nvmlDeviceGetHandleByIndex(index: int) -> dict[str, Any]:
    card = _cards()[index]
    if card.get("hidden"):
        raise NVMLError_NoPermission
    return card


def nvmlDeviceGetName(handle: dict[str, Any]) -> str:
    _cards()
    return str(handle.get("name", "NVIDIA A"))


def nvmlDeviceGetUUID(handle: dict[str, Any]) -> str:
    _cards()
    return str(handle["uuid"])


def nvmlDeviceGetMigMode(device: dict[str, Any]) -> list[int]:
    _cards()
    if "mig" not in device and "partitions" not in device:
        raise NVMLError_NotSupported
    return [int("partitions" in device), 0]


def nvmlDeviceGetMaxMigDeviceCount(device: dict[str, Any]) -> int:
    _cards()
    return 7


def nvmlDeviceGetMigDeviceHandleByIndex(device: dict[str, Any], index: int) -> dict[str, Any]:
    _cards()
    places = device["partitions"]
    if index >= len(places) or places[index] is None:
        raise NVMLError_NotFound
    return {"uuid": places[index]}
