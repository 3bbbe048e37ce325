"""Changes to how a UNet computes reach a copy alone, and do what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.patches import (
    add_free_u,
    free_u_backbone,
    free_u_skip,
    record_self_attention,
    shared_copy,
)
from latentgraph.diffusion.sampling.options import FreeU

FIRST, ADAPTIVE = FreeU(1.1, 1.2, 0.9, 0.2), FreeU(1.3, 1.4, 0.9, 0.2, adaptive=True)


@pytest.fixture(scope="module")
def unet(tiny_sd1: Path) -> Any:
    with open_checkpoint(tiny_sd1, WeightMemory(precision="exact")).model.weights.use() as network:
        return network


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def predict(unet: Any) -> Tensor:
    output: Tensor = unet(draw(2, 4, 8, 8), torch.tensor([500.0, 20.0]), draw(2, 7, 64), return_dict=False)[0]
    return output


def test_a_copy_shares_every_weight_and_no_hook(unet: Any) -> None:
    copy = shared_copy(unet)
    assert [id(weight) for weight in copy.parameters()] == [id(weight) for weight in unet.parameters()]
    before = predict(unet)
    add_free_u(copy, [FIRST])
    record_self_attention(copy, lambda weights: None)
    assert torch.equal(predict(unet), before)
    assert not torch.equal(predict(copy), before)


@pytest.mark.parametrize("adaptive", [False, True])
def test_free_u_of_ones_changes_nothing(unet: Any, adaptive: bool) -> None:
    copy = shared_copy(unet)
    add_free_u(copy, [FreeU(1.0, 1.0, 1.0, 1.0, adaptive=adaptive)])
    torch.testing.assert_close(predict(copy), predict(unet))


@pytest.mark.parametrize("setting", [FIRST, ADAPTIVE])
def test_a_decoder_block_sees_a_strong_backbone_and_a_weak_skip(unet: Any, setting: FreeU) -> None:
    """The tiny network's innermost level has twice its 32 channels, so b2 and s2 hold there."""
    copy, seen = shared_copy(unet), []
    for network in (unet, copy):
        first = network.up_blocks[0].resnets[0]
        if network is copy:
            add_free_u(copy, [setting])
        handle = first.conv_shortcut.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
        predict(network)
        handle.remove()
    plain, changed = seen
    h, skip = free_u_backbone(plain[:, :64], setting, setting.b2), free_u_skip(plain[:, 64:], setting.s2)
    torch.testing.assert_close(changed, torch.cat([h, skip], dim=1))


def test_the_first_half_of_a_backbones_channels_is_strengthened() -> None:
    h = draw(2, 6, 4, 4)
    changed = free_u_backbone(h, FIRST, 1.5)
    assert torch.equal(changed[:, :3], h[:, :3] * 1.5)
    assert torch.equal(changed[:, 3:], h[:, 3:])


def test_the_adaptive_backbone_is_strengthened_where_it_is_large() -> None:
    h = torch.zeros(2, 2, 1, 3)
    h[0, :, 0] = torch.tensor([1.0, 2.0, 3.0])
    changed = free_u_backbone(h, ADAPTIVE, 1.4)
    torch.testing.assert_close(changed[0, 0, 0], torch.tensor([1.0, 2.0 * 1.2, 3.0 * 1.4]))
    assert torch.equal(changed[1], h[1])  # one that is the same everywhere, too


@pytest.mark.parametrize("side", [1, 5, 8])
def test_a_flat_skip_is_scaled_and_its_details_are_kept(side: int) -> None:
    flat = torch.full((1, 2, side, side), 3.0)
    torch.testing.assert_close(free_u_skip(flat, 0.2), 0.2 * flat)
    if side == 8:
        checks = torch.ones(8, 8)
        checks[::2, ::2] = checks[1::2, 1::2] = -1.0
        torch.testing.assert_close(free_u_skip(flat + checks, 0.2), 0.2 * flat + checks)


def test_what_the_middle_attends_to_is_told_and_changes_nothing(unet: Any) -> None:
    copy = shared_copy(unet)
    told: list[Tensor] = []
    record_self_attention(copy, told.append)
    assert torch.equal(predict(copy), predict(unet))
    (weights,) = told
    assert weights.shape == (2, unet.config.attention_head_dim[-1], 16, 16)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones_like(weights[..., 0]))


def test_a_network_without_attention_in_its_middle_is_refused(unet: Any) -> None:
    copy = shared_copy(unet)
    copy.mid_block.attentions = torch.nn.ModuleList()
    with pytest.raises(ValueError, match="attention in its middle"):
        record_self_attention(copy, lambda weights: None)
