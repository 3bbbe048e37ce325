from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor

from latentgraph.diffusion.networks.attention import ExactUNetAttention, ExactVaeAttention


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def attention(tiny: ModuleType, *, heads: int = 4, **changes: Any) -> Attention:
    module = Attention(query_dim=64, heads=heads, dim_head=64 // heads, **changes)
    module.load_state_dict(tiny.fill({name: tuple(w.shape) for name, w in module.state_dict().items()}, gain=1.0))
    return module.requires_grad_(False)


@pytest.mark.parametrize("query_chunk", [4096, 7])
def test_unet_attention_agrees_with_diffusers_own(query_chunk: int, tiny: ModuleType) -> None:
    module = attention(tiny, cross_attention_dim=24)
    x, context = draw(2, 20, 64), draw(2, 9, 24)
    expected = AttnProcessor()(module, x, context)
    torch.testing.assert_close(ExactUNetAttention(query_chunk)(module, x, context), expected, rtol=1e-5, atol=1e-6)


def test_unet_attention_without_a_context_attends_to_itself(tiny: ModuleType) -> None:
    module = attention(tiny)
    x = draw(2, 20, 64)
    assert torch.equal(ExactUNetAttention()(module, x), ExactUNetAttention()(module, x, x))


def test_vae_attention_agrees_with_diffusers_own(tiny: ModuleType) -> None:
    module = attention(tiny, heads=1, bias=True, norm_num_groups=32, residual_connection=True)
    x = draw(2, 64, 5, 6)
    torch.testing.assert_close(ExactVaeAttention()(module, x), AttnProcessor()(module, x), rtol=1e-5, atol=1e-5)


def test_diffusers_networks_take_the_processors_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    unet = UNet2DConditionModel(
        block_out_channels=(32,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=24,
    )
    unet.set_attn_processor(ExactUNetAttention())
    vae = AutoencoderKL(block_out_channels=(32,))
    vae.set_attn_processor(ExactVaeAttention())
    with torch.inference_mode():
        assert unet(draw(1, 4, 8, 8), 3, draw(1, 5, 24)).sample.shape == (1, 4, 8, 8)
        assert vae.decode(draw(1, 4, 8, 8)).sample.shape == (1, 3, 8, 8)
    assert not caplog.records
