"""A UNet that composes on a smaller scale: which features are small, when, and that they come back to size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.levels.space import discrete_space
from latentgraph.diffusion.networks.deep_shrink import DeepShrink
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.patches import shared_copy
from latentgraph.diffusion.sampling.options import Downscale

SPACE = discrete_space()
EARLY, LATE = torch.tensor(14.0), torch.tensor(0.5)


@pytest.fixture(scope="module")
def unet(reference_tiny: Path) -> Any:
    """Four levels of one res block each: input blocks 2, 4 and 6 halve the sides."""
    with open_checkpoint(reference_tiny, WeightMemory(precision="exact")).model.weights.use() as network:
        return network


def heights(unet: Any, setting: Downscale, sigma: Tensor, side: int = 32) -> tuple[Tensor, dict[str, int]]:
    """What comes out, and the height of what goes into some parts of the network."""
    copy = shared_copy(unet)
    shrink = DeepShrink(copy, setting, SPACE)
    seen: dict[str, int] = {}
    parts = {"level 2": copy.down_blocks[2].resnets[0], "middle": copy.mid_block.resnets[0]}
    parts |= {f"up {n}": block.resnets[0] for n, block in enumerate(copy.up_blocks)}
    for name, module in parts.items():
        module.register_forward_hook(lambda _, given, __, name=name: seen.update({name: given[0].shape[-2]}))
    draw = torch.Generator().manual_seed(0)
    x, context = torch.randn(1, 4, side, side, generator=draw), torch.randn(1, 7, 24, generator=draw)
    shrink.begin(sigma)
    with torch.inference_mode():
        out: Tensor = copy(x, torch.tensor(500.0), context, return_dict=False)[0]
    return out, seen


def test_inner_blocks_are_small_while_a_picture_is_composed(unet: Any) -> None:
    out, seen = heights(unet, Downscale(block=2), EARLY)  # behind the first halving: 16 becomes 8
    assert out.shape == (1, 4, 32, 32)
    assert seen == {"level 2": 4, "middle": 2, "up 0": 2, "up 1": 4, "up 2": 8, "up 3": 32}


def test_later_in_a_run_the_network_is_as_it_is(unet: Any) -> None:
    out, seen = heights(unet, Downscale(block=2), LATE)
    plain, _ = heights(unet, Downscale(block=2, factor=1.0), LATE)
    assert seen["middle"] == 4
    assert torch.equal(out, plain)


def test_a_factor_of_1_changes_nothing(unet: Any) -> None:
    torch.testing.assert_close(heights(unet, Downscale(factor=1.0), EARLY)[0], heights(unet, Downscale(), LATE)[0])


@pytest.mark.parametrize("block", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("after_skip", [True, False])
@pytest.mark.parametrize(("factor", "side"), [(2.0, 32), (1.5, 40), (0.5, 16)])
def test_what_comes_out_has_the_size_of_what_went_in(
    unet: Any, block: int, after_skip: bool, factor: float, side: int
) -> None:
    setting = Downscale(block, factor, after_skip=after_skip, shrink="bislerp", grow="area")
    out, _ = heights(unet, setting, EARLY, side)
    plain, _ = heights(unet, setting, LATE, side)
    assert out.shape == (1, 4, side, side)
    assert not torch.allclose(out, plain, atol=1e-4)


def test_a_block_that_is_not_there_is_refused(unet: Any) -> None:
    with pytest.raises(ValueError, match="no input block 9 to shrink behind; name one of 1 to 7"):
        DeepShrink(shared_copy(unet), Downscale(block=9), SPACE)


def test_it_works_in_the_number_formats_of_auto(unet: Any) -> None:
    low = shared_copy(unet)
    low = replace_weights(low)
    shrink = DeepShrink(low, replace(Downscale(block=2), shrink="bislerp"), SPACE)
    shrink.begin(EARLY)
    with torch.inference_mode():
        out = low(torch.randn(1, 4, 32, 32).bfloat16(), torch.tensor(500.0), torch.randn(1, 7, 24).bfloat16())[0]
    assert out.dtype is torch.bfloat16


def replace_weights(unet: Any) -> Any:
    state = {name: weight.bfloat16() for name, weight in unet.state_dict().items()}
    unet.load_state_dict(state, assign=True)
    return unet
