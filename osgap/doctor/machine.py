"""What the machine offers: Python, torch, GPU, gsplat, cores, memory, codecs, Snakemake."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import osgap
from osgap.doctor.findings import Finding, Status, from_home, gigabytes
from osgap.runtime.cards import describe_driver

if TYPE_CHECKING:
    from osgap.workflow.pipeline import Pipeline

_PYTHON = (3, 11)
_TORCH = (2, 11)
_IMPORT_MEMORY = 2 << 30
"""What an import of a 5,000-image subject may take."""
_TOOLKIT = "/usr/local/cuda/bin"  # where CUDA's own installer puts nvcc
_NO_LIMIT = 1 << 60  # cgroups of version 1 say "no limit" with a number near 2^63


def findings(pipeline: Pipeline | None) -> list[Finding]:
    """All findings about the machine; some weigh differently with a config of synthetic people, or for GPUs."""
    checks: list[Callable[[], Finding]] = [
        _python,
        _torch,
        lambda: _gpu(pipeline),
        _gsplat,
        _cores,
        _memory,
        _codecs,
        _snakemake,
        _slurm,
    ]
    return [check() for check in checks]


def _finding(name: str, status: Status, found: str, fix: str = "") -> Finding:
    return Finding("machine", name, status, found, fix)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 15) of `2.15.0+cu132`."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _python() -> Finding:
    found = f"Python {platform.python_version()}, osgap {osgap.__version__}"
    if sys.version_info[:2] < _PYTHON:
        return _finding("python", "missing", found, f"Install osgap for Python {_PYTHON[0]}.{_PYTHON[1]} or newer.")
    return _finding("python", "ok", found)


def _torch() -> Finding:
    wanted = ".".join(map(str, _TORCH))
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: one of its libraries does not load
        return _finding("torch", "missing", f"does not load ({error})", f"Install torch {wanted} or newer.")
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU only"
    found = f"{torch.__version__}, built for {built}"
    if _numbers(torch.__version__) < _TORCH:
        return _finding("torch", "missing", found, f"Install torch {wanted} or newer.")
    return _finding("torch", "ok", found)


def _gpu(pipeline: Pipeline | None) -> Finding:
    try:
        import torch
    except (ImportError, OSError):
        return _finding("gpu", "warning", "not known without torch", "Install torch, then run this again.")
    driver = describe_driver()
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        names = ", ".join(f"{card.name} ({gigabytes(card.total_memory)})" for card in cards)
        return _finding("gpu", "ok", f"{names}, driver {driver[1] if driver else 'unknown'}")
    if driver is not None:
        found = f"{driver[0]} with driver {driver[1]}, but torch cannot use it"
        fix = (
            f"Install a driver for CUDA {torch.version.cuda}, or the torch that is built for the driver's CUDA."
            if torch.version.cuda
            else "Install a torch that is built for CUDA; this one is for the CPU only."
        )
    else:
        found = "none; everything runs on the CPU"
        fix = "Full-size training takes long on a CPU: use a machine with an NVIDIA GPU, or a smaller run."
    if pipeline is not None and pipeline.config.accelerator == "cuda":
        return _finding("gpu", "missing", found, f"{fix} Or set accelerator to auto.")
    small = pipeline is not None and pipeline.config.synthetic is not None and driver is None
    return _finding("gpu", "ok" if small else "warning", found, "" if small else fix)


def _gsplat() -> Finding:
    version = _version("gsplat")
    spec = importlib.util.find_spec("gsplat") if version else None
    if version is None or spec is None or spec.origin is None:
        return _finding("gsplat", "ok", "not installed; rendering on a GPU needs it (pip install gsplat)")
    places = [(Path(spec.origin).parent, "csrc*.so"), (Path(spec.origin).parent, "gsplat_cuda*.so")]
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    extensions = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or caches / "torch_extensions")
    places.append((extensions, "**/gsplat_cuda*.so"))
    compiled = [path for folder, pattern in places for path in sorted(folder.glob(pattern))]
    if compiled:
        return _finding("gsplat", "ok", f"{version}, compiled: {from_home(compiled[0])}")
    compiler = _compiler()
    if compiler is None and describe_driver() is None:
        return _finding("gsplat", "ok", f"{version}, for machines with an NVIDIA GPU")
    if compiler is None:
        fix = "Install the CUDA toolkit (nvcc) of torch's CUDA version, or a wheel of gsplat that is compiled already."
        return _finding("gsplat", "warning", f"{version}, not compiled, and no nvcc to compile it with", fix)
    return _finding("gsplat", "ok", f"{version}, compiles at its first use with {from_home(compiler)}")


def _compiler() -> Path | None:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if (folder := os.environ.get(variable)) and (Path(folder) / "bin" / "nvcc").is_file():
            return Path(folder) / "bin" / "nvcc"
    found = shutil.which("nvcc", path=os.pathsep.join([os.environ.get("PATH", os.defpath), _TOOLKIT]))
    return Path(found) if found else None


def _cores() -> Finding:
    total = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    return _finding("cores", "ok", f"{usable}" if usable == total else f"{usable} of the machine's {total}")


def _memory() -> Finding:
    available, limit = _available_memory(), _cgroup_room()
    if available is None:
        return _finding("memory", "warning", "not known on this system", "Make sure that 2 GB are free.")
    room = available if limit is None else min(available, limit)
    found = f"{gigabytes(room)} available" + (" (the limit of this job or container)" if room < available else "")
    if room < _IMPORT_MEMORY:
        return _finding(
            "memory", "warning", found, f"Free some memory: an import alone may take {gigabytes(_IMPORT_MEMORY)}."
        )
    return _finding("memory", "ok", found)


def _available_memory() -> int | None:
    """What could be allocated without swapping, in bytes."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _cgroup_room(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Bytes left below the smallest memory limit of this process's control groups, of version 1 or 2; None without."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    room: list[int] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        elif not controllers:
            base, names = root, ("memory.max", "memory.current")
        else:
            continue
        folder = base / path.lstrip("/")
        # A container sees its own group as the root, whatever its path says.
        for group in (folder, *(p for p in folder.parents if p.is_relative_to(base))):
            try:
                limit, used = ((group / name).read_text().strip() for name in names)
            except OSError:
                continue
            if limit.isdecimal() and int(limit) < _NO_LIMIT:
                room.append(int(limit) - int(used))
    return max(0, min(room)) if room else None


def _codecs() -> Finding:
    fix = "Install a wheel of PyAV, which has FFmpeg's h264 and hevc: pip install --force-reinstall --only-binary av av"
    try:
        import av
    except (ImportError, OSError) as error:
        return _finding("video", "missing", f"PyAV does not load ({error})", fix)
    broken = {name: reason for name in ("h264", "hevc") if (reason := _cannot_decode(av, name))}
    if broken:
        return _finding("video", "missing", "; ".join(f"{name}: {reason}" for name, reason in broken.items()), fix)
    return _finding("video", "ok", f"PyAV {av.__version__} decodes h264 and hevc")


def _cannot_decode(av: Any, name: str) -> str:
    """Decode two frames that are encoded here; what went wrong, or nothing."""
    try:
        decoder = av.CodecContext.create(name, "r")
    except Exception as error:
        return f"no decoder ({error})"
    try:
        packets = _two_frames(av, {"h264": "libx264", "hevc": "libx265"}[name])
    except Exception:  # nothing here to make a video with: that the decoder is there has to do
        return ""
    try:
        count = sum(len(decoder.decode(packet)) for packet in (*packets, None))
    except Exception as error:
        return f"does not decode ({type(error).__name__}: {error})"
    return "" if count == 2 else f"decodes {count} of 2 frames"


def _two_frames(av: Any, encoder_name: str) -> list[Any]:
    """Packets of a grey video of 64 x 64 pixels."""
    encoder = av.CodecContext.create(encoder_name, "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 64, "yuv420p", Fraction(1, 24)
    if encoder_name == "libx265":
        encoder.options = {"x265-params": "log-level=none"}
    packets = []
    for time in range(2):
        frame = av.VideoFrame.from_ndarray(np.full((96, 64), 128, np.uint8), "yuv420p")
        frame.pts = time
        packets += encoder.encode(frame)
    return packets + encoder.encode(None)


def _snakemake() -> Finding:
    version = _version("snakemake")
    if version is None:
        return _finding("snakemake", "missing", "not installed", "Install snakemake into the environment of osgap.")
    beside = Path(sys.executable).parent / "snakemake"
    if not (beside.is_file() or shutil.which("snakemake")):
        fix = f"Install it for this Python: {sys.executable} -m pip install --force-reinstall snakemake"
        return _finding("snakemake", "missing", f"{version}, but its command is not there", fix)
    return _finding("snakemake", "ok", version)


def _slurm() -> Finding:
    """Only `--profile profiles/slurm` needs any of this."""
    sbatch = shutil.which("sbatch") is not None
    plugin = _version("snakemake-executor-plugin-slurm")
    found = f"sbatch {'found' if sbatch else 'not on PATH'}, Snakemake's plugin {plugin or 'not installed'}"
    return _finding("slurm", "ok", found + ("" if sbatch and plugin else "; only profiles/slurm needs both"))
