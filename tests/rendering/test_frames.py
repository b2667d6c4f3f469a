"""Rendered frames: the right ones, in order, as bytes; and a producer in a thread that always ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from osgap.head.model import HeadModel, PersonHead
from osgap.rendering import sequence as module
from osgap.rendering.sequence import ahead, frames
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import render
from rendering.people import World, cameras

GREY = torch.tensor([0.25, 0.5, 0.75])


def threads() -> int:
    return sum(thread.name == "render-ahead" for thread in threading.enumerate())


def one(world: World, timestep: int, camera: int) -> Tensor:
    """A frame by itself, `[H, W, 3]` float."""
    posed = world.anna.avatar.gaussians(world.head, [timestep])
    return render(posed, cameras()[[camera]], GREY).rgb[0].clamp(0, 1)


def test_every_pair_of_timestep_and_camera_is_a_frame(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    avatar, rows, views = world.anna.avatar, [0, 3, 3, 6, 1], [0, 1, 2, 1, 0]
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    parts = list(frames(avatar, world.head, avatar.params.select(rows), cameras()[views], GREY))
    assert [len(part) for part in parts] == [2, 2, 1]
    for frame, timestep, camera in zip(torch.cat(parts), rows, views, strict=True):
        assert frame.dtype == torch.uint8
        error = (frame.float() / 255 - one(world, timestep, camera)).abs().max()
        assert float(error) <= 0.5 / 255 + 1e-5
    assert one(world, 0, 0).std() > 0.1


def test_one_timestep_or_one_camera_serves_all_frames(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    avatar = world.anna.avatar
    turned = torch.cat(list(frames(avatar, world.head, avatar.params.select(4), cameras(), GREY)))
    moved = torch.cat(list(frames(avatar, world.head, avatar.params.select([4, 5, 6]), cameras()[1], GREY)))
    assert turned.shape == moved.shape == (3, cameras().height, cameras().width, 3)
    for i in range(3):
        assert float((turned[i].float() / 255 - one(world, 4, i)).abs().max()) <= 0.5 / 255 + 1e-5
        assert float((moved[i].float() / 255 - one(world, 4 + i, 1)).abs().max()) <= 0.5 / 255 + 1e-5
    with pytest.raises(ValueError, match="got 2 timesteps and 3 cameras"):
        frames(avatar, world.head, avatar.params.select([0, 1]), cameras())


def test_transparent_frames_lie_over_any_background(world: World) -> None:
    avatar = world.anna.avatar
    (opaque,) = frames(avatar, world.head, avatar.params.select(2), cameras(), GREY)
    (clear,) = frames(avatar, world.head, avatar.params.select(2), cameras())
    color, alpha = clear[..., :3].float() / 255, clear[..., 3:].float() / 255
    assert (alpha == 0).any()
    assert (alpha == 1).any()
    assert ((alpha > 0.1) & (alpha < 0.9)).any()
    over = alpha * color + (1 - alpha) * GREY
    assert float((over - opaque.float() / 255).abs().max()) <= 1.6 / 255  # two roundings, and that of the other
    # Straight, not premultiplied: at a faint edge the colour is still that of the Gaussians.
    gaussians = avatar.gaussians(world.head, [2])
    red = torch.tensor([1.0, 0, 0]).expand_as(gaussians.colors)
    reddened = Gaussians(gaussians.means, gaussians.rotations, gaussians.scales, gaussians.opacities, red)
    pixels = module._bytes(render(reddened, cameras()), transparent=True)
    faint = (pixels[..., 3] > 2) & (pixels[..., 3] < 50)
    assert faint.any()
    assert (pixels[faint][:, :3] == torch.tensor([255, 0, 0])).all()


def test_identity_is_folded_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 1)
    folded: list[Tensor] = []
    person = HeadModel.person

    def counted(head: HeadModel, shape: Tensor, static_offset: Tensor) -> PersonHead:
        folded.append(shape)
        return person(head, shape, static_offset)

    monkeypatch.setattr(HeadModel, "person", counted)
    params = world.anna.avatar.params.replace(shape=world.anna.avatar.params.shape.clone())
    assert len(list(frames(world.anna.avatar, world.head, params, cameras()[0], GREY))) == 7
    assert len(folded) == 1


def count_to(last: int, log: list[str] | None = None, fail_at: int | None = None) -> Iterator[int]:
    try:
        for number in range(last):
            if number == fail_at:
                raise RuntimeError("the renderer failed")
            yield number
    finally:
        if log is not None:
            log.append(f"closed in {threading.current_thread().name}")


def test_items_arrive_in_order_and_are_made_ahead() -> None:
    assert list(ahead(range(100))) == list(range(100))
    made: list[int] = []

    def slow() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    consumed = ahead(slow(), depth=3)
    assert next(consumed) == 0
    deadline = time.monotonic() + 60
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]  # one in use, three that wait: no more, however slow the consumer is
    consumed.close()
    assert threads() == 0


def test_an_error_of_the_producer_is_raised_in_its_turn() -> None:
    seen: list[int] = []
    log: list[str] = []
    with pytest.raises(RuntimeError, match="the renderer failed"):
        for number in ahead(count_to(9, log, fail_at=3)):
            seen.append(number)
    assert seen == [0, 1, 2]
    assert log == ["closed in render-ahead"]
    assert threads() == 0


def test_a_consumer_that_stops_ends_the_producer() -> None:
    log: list[str] = []
    with pytest.raises(KeyError):
        for number in ahead(count_to(10**9, log), depth=2):
            if number == 5:
                raise KeyError(number)
    deadline = time.monotonic() + 60  # the generator is closed when nobody refers to it any more
    while threads() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threads() == 0
    assert log == ["closed in render-ahead"]


def test_an_error_while_closing_does_not_hang() -> None:
    def stubborn() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            raise RuntimeError("will not close")

    consumed = ahead(stubborn(), depth=1)
    assert next(consumed) == 1
    consumed.close()
    assert threads() == 0


@pytest.mark.gpu
def test_a_gpu_makes_the_same_frames(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    avatar = world.anna.avatar
    for background in (GREY, None):
        expected = torch.cat(list(frames(avatar, world.head, avatar.params, cameras()[1], background)))
        device = torch.device("cuda")
        # All parts are kept: memory that is handed out again too early would show.
        parts = list(frames(avatar.to(device), world.head.to(device), avatar.params, cameras()[1], background))
        assert [len(part) for part in parts] == [2, 2, 2, 1]
        assert all(part.is_pinned() for part in parts)
        found = torch.cat(parts)
        if background is None:
            assert int((found[..., 3].int() - expected[..., 3].int()).abs().max()) <= 1
            found, expected = premultiplied(found), premultiplied(expected)
            assert float(expected.amax()) > 100
            assert float((found - expected).abs().max()) <= 2  # of two roundings each
        else:
            assert int((found.int() - expected.int()).abs().max()) <= 1


def premultiplied(pixels: Tensor) -> Tensor:
    """Colours `[..., 3]` times alpha: where hardly anything is visible, the colour alone is a quotient of roundings."""
    return pixels[..., :3].float() * pixels[..., 3:].float() / 255
