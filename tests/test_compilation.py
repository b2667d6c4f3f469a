"""Every Triton kernel through the compiler for cards that need not be there: it compiles, and its values fit registers.

What a kernel computes is tested beside its own code, in Triton's interpreter and on a GPU. Run as a program, this file
compiles for one capability and prints what came out.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

REPOSITORY = Path(__file__).parents[1]
CAPABILITIES = (80, 90, 120)  # A100, H200, RTX 5090
SHARED_MEMORY = 99 * 1024  # bytes that a program may have on any of them
SPILLED = re.compile(r"STACK:(\d+) .*LOCAL:(\d+)")
MODULES = [
    path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".")
    for path in sorted((REPOSITORY / "osgap").rglob("*_triton.py"))
]


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_kernels_compile_without_spilling(capability: int) -> None:
    pytest.importorskip("triton")
    command = [sys.executable, "-W", "ignore", "-m", "tests.test_compilation", str(capability)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    kernels = json.loads(done.stdout)
    assert {kernel["module"] for kernel in kernels} == set(MODULES)
    for kernel in kernels:
        assert kernel["spilled"] == 0, kernel
        assert kernel["shared"] <= SHARED_MEMORY, kernel


def launch_everything() -> None:
    """Call the launching functions with the types of real work, forward and backward."""
    from osgap.fit import adam_triton, visibility_triton
    from osgap.metrics import lpips_triton, ssim_triton, vgg_triton
    from osgap.prior.network import attention_triton, depthwise_triton, groups_triton
    from osgap.splat import rig_triton
    from osgap.splat.attributes import N_CHANNELS
    from osgap.splat.cameras import Cameras
    from osgap.splat.coverage import silhouette_triton

    table = torch.zeros(10, N_CHANNELS)
    adam_triton.step(table, table, table, table, torch.zeros(N_CHANNELS), (0.9, 0.999), (0.1, 0.001), 1e-15)
    cameras = Cameras(torch.eye(4)[None], torch.eye(3)[None], 8, 8)
    visibility_triton.count(torch.zeros(1, 10, 3), torch.ones(1, 10, 3), cameras, 3.0, 0.01)

    silhouette_triton.fill(torch.zeros(1, 9, 2), torch.zeros(10, 3, dtype=torch.int64), 8, 8)

    for own in (False, True):
        channels = torch.zeros(*([2] if own else []), 10, N_CHANNELS, requires_grad=True)
        for moving in (False, True):
            vertices = torch.zeros(2, 9, 3, requires_grad=moving)
            posed = rig_triton.pose(channels, vertices, torch.zeros(10, 3, dtype=torch.int64))
            torch.stack([value.sum() for value in posed]).sum().backward()

    images = torch.zeros(1, 12, 10, 3, requires_grad=True)
    ssim_triton.ssim_map(images, images.detach()).sum().backward()
    for targets in (images.detach(), images.detach().to(torch.uint8)):
        ssim_triton.photometric_loss(images, targets, 0.2).backward()

    for width in (64, 192, 256, 384, 512):  # of the stages of VGG-16 and AlexNet
        for dtype in (torch.float32, torch.bfloat16):
            features = torch.zeros(2, width, 3, 3, dtype=dtype, requires_grad=True)
            lpips_triton.difference(features, features.detach(), torch.ones(width)).sum().backward()
    for width in (64, 128, 256, 512):
        features = torch.zeros(1, width, 4, 4, dtype=torch.bfloat16, requires_grad=True)
        bias = torch.zeros(width, dtype=torch.bfloat16)
        activated = vgg_triton._Activation.apply(features.to(memory_format=torch.channels_last) * 1, bias)
        vgg_triton._Pooling.apply(activated).sum().backward()
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.zeros(1, 4, 4, 2048, dtype=dtype, requires_grad=True)
        weight, bias = (torch.zeros(size, requires_grad=True) for size in ((2048, 1, 3, 3), (2048,)))
        depthwise_triton.depthwise(x, weight, bias).sum().backward()
    for width in (64, 128, 512):  # of a ResNet's stages, with 32 groups
        x = torch.zeros(1, 8, 8, width, dtype=torch.bfloat16, requires_grad=True)
        weight, bias = (torch.zeros(width, requires_grad=True) for _ in range(2))
        groups_triton.group_norm(x, 32, weight, bias, 1e-5).sum().backward()
    for keys in (256, 4096, 16384):
        query = torch.zeros(1, 1, 1, 512, dtype=torch.bfloat16, requires_grad=True)
        key = torch.zeros(1, 1, keys, 512, dtype=torch.bfloat16)
        attention_triton.attend(query, key, key, True).sum().backward()


def compile_everything(capability: int) -> list[dict[str, Any]]:
    """Compile where the launching functions would compile and launch; what came out of every kernel."""
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.runtime import JITFunction, driver

    class Absent:
        """A driver of a card that is not there."""

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", capability, 32)

    driver.set_active(Absent())
    kernels: dict[str, dict[str, Any]] = {}
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        made = run(self, *args, grid=grid, warmup=True, **options)
        with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
            cubin.write(made.asm["cubin"])
            cubin.flush()
            tool = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", cubin.name]
            usage = subprocess.run(tool, check=True, capture_output=True, text=True).stdout
        found = SPILLED.search(usage)
        assert found, usage
        kernels[made.hash] = {
            "module": self.fn.__module__, "kernel": self.fn.__name__, "spilled": sum(map(int, found.groups())),
            "shared": made.metadata.shared, "signature": str(made.src.signature),
        }  # fmt: skip

    JITFunction.run = compile_only
    launch_everything()
    launched = {(kernel["module"], kernel["kernel"]) for kernel in kernels.values()}
    modules = [importlib.import_module(name) for name in MODULES]
    assert set().union(*map(kernels_of, modules)) == launched
    return list(kernels.values())


def kernels_of(module: ModuleType) -> set[tuple[str, str]]:
    """The compiled functions of a module that none of its others calls."""
    from triton.runtime import JITFunction

    functions = {name: value for name, value in vars(module).items() if isinstance(value, JITFunction)}
    sources = {name: function.raw_src for name, function in functions.items()}
    return {
        (module.__name__, name)
        for name in functions
        if not any(f" {name}(" in "".join(source) for other, source in sources.items() if other != name)
    }


if __name__ == "__main__":
    json.dump(compile_everything(int(sys.argv[1])), sys.stdout)
