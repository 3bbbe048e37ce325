"""Tiles joined: against ComfyUI 0.8.0, and against the function applied to the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from latentgraph.diffusion.latents.tiling import tiled_scale

KEY = (
    "tiled_scale linspace(1,4,20,23) tile_x8 tile_y10 overlap3 up2; "
    "fn=2x nearest of channel mean, times (1+0.01*tilewidth)"
)


def grey_twice_as_large(x: Tensor) -> Tensor:
    return interpolate(x.mean(1, keepdim=True).repeat(1, 3, 1, 1), scale_factor=2)


def test_tiles_are_joined_as_in_the_reference(image_ops: dict[str, Any]) -> None:
    x = torch.linspace(0, 1, 1840).reshape(1, 4, 20, 23)
    joined = tiled_scale(
        x,
        lambda tile: grey_twice_as_large(tile) * (1 + 0.01 * tile.shape[-1]),
        tile_width=8,
        tile_height=10,
        overlap=3,
        scale=2,
    )
    wanted = image_ops[KEY]
    assert list(joined.shape) == wanted["shape"]
    assert joined[0, 0, 0].tolist() == pytest.approx(wanted["row0"], abs=1e-6)
    assert float(joined.mean()) == pytest.approx(wanted["mean"], abs=1e-6)


@pytest.mark.parametrize(("tile", "overlap"), [(8, 0), (8, 3), (7, 6), (20, 4), (64, 16)])
def test_a_local_function_gives_the_same_tiled_as_whole(tile: int, overlap: int) -> None:
    x = torch.rand(2, 3, 20, 23, generator=torch.Generator().manual_seed(0))
    joined = tiled_scale(x, grey_twice_as_large, tile_width=tile, tile_height=tile, overlap=overlap, scale=2)
    torch.testing.assert_close(joined, grey_twice_as_large(x))


def test_tiles_may_shrink() -> None:
    x = torch.rand(1, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    joined = tiled_scale(
        x, lambda tile: interpolate(tile, scale_factor=1 / 8), tile_width=32, tile_height=32, overlap=8, scale=1 / 8
    )
    torch.testing.assert_close(joined, interpolate(x, scale_factor=1 / 8))


def test_progress_counts_all_tiles_of_the_batch_and_may_cancel() -> None:
    seen: list[tuple[int, int]] = []

    def stop_at_third(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        tiled_scale(
            torch.zeros(2, 1, 8, 12), torch.clone, tile_width=8, tile_height=8, overlap=4, on_tile=stop_at_third
        )
    assert seen == [(1, 4), (2, 4), (3, 4)]


def test_an_overlap_as_large_as_the_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap is 8 and tile_height is 8"):
        tiled_scale(torch.zeros(1, 1, 20, 20), torch.clone, tile_width=16, tile_height=8, overlap=8)
