"""What a machine may refuse: reading, and room on the disk."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Take from root the right to read what its permissions forbid, in this thread and those that it starts.

    Skips the test where that cannot be done.
    """
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    sets = (ctypes.c_uint32 * 6)()  # (effective, permitted, inheritable), low and high words
    if libc.capget(header, sets) != 0:
        pytest.skip("runs as root, on a system without capabilities, where permissions do not bind")
    kept = sets[0]
    sets[0] = kept & ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = kept
        assert libc.capset(header, sets) == 0


@contextlib.contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file may grow beyond `limit` bytes: writing fails as on a full disk or an exhausted quota."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
