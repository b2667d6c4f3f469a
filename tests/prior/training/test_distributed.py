"""Processes that train together: from what they can be started, and how their gradients lie in memory."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from osgap.prior.config import PriorConfig
from osgap.prior.network.encoder import MixFeedForward
from osgap.prior.training.distributed import keep_strides, launch
from osgap.runtime.errors import UserError
from prior.runs import clean_environment, start, tiny

PROGRAM = """
import torch
from osgap.prior.config import PriorConfig
from osgap.prior.training.distributed import launch
from osgap.runtime.gpus import using
with using("cpu"):
    fabric = launch(PriorConfig(devices=2))
total = fabric.all_reduce(torch.tensor(1.0 + fabric.global_rank), reduce_op="sum")
if fabric.is_global_zero:
    print("together", float(total))
"""


def _run(arguments: list[str], folder: Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    folders = [str(folder), *sys.path, os.environ.get("PYTHONPATH", "")]
    unset = ("SLURM_", "TORCHELASTIC_", "OSGAP_", "LOCAL_RANK", "WORLD_SIZE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    return subprocess.run(
        [sys.executable, *arguments], input=text, cwd=folder, env=environment, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "typed", "found"),
    [
        (["-c", PROGRAM], None, "it was given by `python -c`"),
        (["-"], PROGRAM, "it was typed: a notebook, an interpreter or standard input"),
    ],
    ids=["-c", "-"],
)
def test_what_cannot_be_started_again_says_so(
    tmp_path: Path, arguments: list[str], typed: str | None, found: str
) -> None:
    done = _run(arguments, tmp_path, typed)
    assert done.returncode == 1
    assert "UserError: 2 processes are to train together" in done.stderr
    assert f"but {found}. Run `osgap train`, or put the call into a file" in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["program.py"], ["-m", "program"]], ids=["file", "module"])
def test_what_can_be_started_again_is(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = _run(arguments, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "together 3.0\n"


@pytest.mark.parametrize(
    ("attributes", "program", "found"),
    [
        # IPython's kernel was a module of `python -m` and replaces `__main__`, but not what it was called with.
        ({}, __file__, "it was typed: a notebook"),
        ({"__file__": "<stdin>"}, "", "it was typed"),
        ({"__file__": "moved.py"}, "moved.py", r"moved\.py is neither a script nor"),
        ({"__file__": "folder/__main__.py", "__spec__": types.SimpleNamespace(name="__main__")}, "folder", "neither"),
    ],
    ids=["notebook", "stdin", "moved", "folder"],
)
def test_other_programs_without_a_file(
    monkeypatch: pytest.MonkeyPatch, attributes: dict[str, Any], program: str, found: str
) -> None:
    clean_environment(monkeypatch)
    main = types.ModuleType("__main__")
    vars(main).update(attributes)
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", [program])
    with pytest.raises(UserError, match=found):
        launch(PriorConfig(devices=2))
    assert launch(PriorConfig(devices=1)).world_size == 1, "one process needs no other"


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_lie_as_their_parameters_do(layout: torch.memory_format) -> None:
    """Kernels with one input channel, whose gradients come in either layout."""
    torch.manual_seed(0)
    block = MixFeedForward(16, 32)
    block.to(memory_format=layout)
    free = MixFeedForward(16, 32)
    free.load_state_dict(block.state_dict())
    keep_strides(block)
    tokens = torch.randn(2, 6, 5, 16)
    for module in (block, free):
        module(tokens).square().sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride(), name
        assert torch.equal(parameter.grad, free.get_parameter(name).grad), name  # type: ignore[arg-type]
    kernel = block.depthwise.weight
    values = torch.arange(kernel.numel(), dtype=kernel.dtype).view(kernel.shape)
    for given in (values, values.contiguous(memory_format=torch.channels_last)):
        kernel.grad = None
        kernel.backward(given)
        assert kernel.grad is not None
        assert torch.equal(kernel.grad, values)
        assert kernel.grad.stride() == kernel.stride()


@pytest.mark.slow
def test_two_processes_are_not_warned(world: Any, tmp_path: Path) -> None:
    """`DistributedDataParallel` warns of gradients that do not lie as its buckets do."""
    config = tiny(2).model_copy(update={"devices": 2, "sources": 1})
    process = start(world, tmp_path, config, stderr=subprocess.PIPE)
    errors = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 0, errors[-2000:]
    assert "Warning" not in errors
