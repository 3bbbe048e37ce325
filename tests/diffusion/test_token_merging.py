"""Queries that are alike are asked as one: which are merged, into what, and that all come back to their places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.patches import shared_copy
from latentgraph.diffusion.networks.token_merging import match_tokens, merge_tokens


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7)])
@pytest.mark.parametrize(("ratio", "left"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.25)])
def test_a_part_of_the_places_is_merged_and_each_comes_back(height: int, width: int, ratio: float, left: float) -> None:
    x = draw(2, height * width, 3)
    merging = match_tokens(x, height=height, width=width, ratio=ratio)
    merged = merging.merge(x)
    kept = (height // 2) * (width // 2)
    assert merged.shape == (2, max(kept, x.shape[1] - int(x.shape[1] * ratio)), 3)
    back = merging.unmerge(merged)
    assert back.shape == x.shape
    if ratio == 0.0:
        assert torch.equal(back, x)
    assert merged.shape[1] >= left * x.shape[1] - 3


def test_places_that_are_alike_are_merged_and_come_back_as_their_mean() -> None:
    """Two colours, left and right: everything may be merged without a loss."""
    x = torch.zeros(1, 4, 8, 2)
    x[:, :, :4, 0], x[:, :, 4:, 1] = 1.0, 2.0
    x = x.flatten(1, 2)
    merging = match_tokens(x, height=4, width=8, ratio=1.0)
    merged = merging.merge(x)
    assert merged.shape == (1, 8, 2)
    torch.testing.assert_close(merging.unmerge(merged), x)


def test_the_most_alike_are_merged_first() -> None:
    x = draw(1, 64, 4)
    x[0, 1:9] = x[0, 0]  # nine equal places in the first rows
    merging = match_tokens(x, height=8, width=8, ratio=2 / 64)
    torch.testing.assert_close(merging.unmerge(merging.merge(x)), x)


@pytest.fixture(scope="module")
def unet(reference_tiny: Path) -> Any:
    with open_checkpoint(reference_tiny, WeightMemory(precision="exact")).model.weights.use() as network:
        return network


@torch.inference_mode()
def predict(unet: Any, side: int = 16) -> Tensor:
    output: Tensor = unet(draw(2, 4, side, side), torch.tensor(500.0), draw(2, 7, 24), return_dict=False)[0]
    return output


def test_a_ratio_of_0_changes_nothing_and_a_larger_one_does_so_repeatably(unet: Any) -> None:
    plain = predict(unet)
    for ratio in (0.0, 0.5):
        copy = shared_copy(unet)
        merge_tokens(copy, ratio)
        found = predict(copy)
        assert torch.equal(found, predict(copy))
        assert torch.allclose(found, plain, rtol=1e-4, atol=1e-5) == (ratio == 0.0)
    assert torch.equal(predict(unet), plain)


def test_odd_and_small_latents_are_no_trouble(unet: Any) -> None:
    copy = shared_copy(unet)
    merge_tokens(copy, 0.7)
    assert predict(copy, 24).shape == (2, 4, 24, 24)
    assert predict(copy, 8).shape == (2, 4, 8, 8)
