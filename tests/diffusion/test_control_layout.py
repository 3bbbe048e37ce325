"""Control networks of true size: what their headers tell gives every tensor of diffusers' own classes."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, ControlNetUnionModel, FluxControlNetModel, SD3ControlNetModel, T2IAdapter
from torch import nn

from latentgraph.diffusion.checkpoints.headers import Header, TensorInfo
from latentgraph.diffusion.control.layout import control_layout
from latentgraph.diffusion.control.transformer_reading import read_transformer_control
from latentgraph.diffusion.control.unet_reading import read_control_net, read_t2i_adapter

pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")  # diffusers' own use of it

SMALL_HINT = {"conditioning_embedding_out_channels": (16, 32, 96, 256)}
SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
MID = {
    "transformer_layers_per_block": [0, 0, 1],
    "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
}
SMALL = {
    "transformer_layers_per_block": [0, 0, 0], "down_block_types": ("DownBlock2D",) * 3, "mid_block_type": "UNetMidBlock2D"
}  # fmt: skip
SD3: dict[str, Any] = {"num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192}
LARGE: dict[str, Any] = {
    "num_layers": 19,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "qk_norm": "rms_norm",
}
LEANING: dict[str, Any] = {
    "num_layers": 19, "num_attention_heads": 38, "joint_attention_dim": None, "pos_embed_type": None, "use_pos_embed": False
}  # fmt: skip

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "SD1.5": lambda: ControlNetModel(**SMALL_HINT),
    "SD2.1": lambda: ControlNetModel(
        cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True, **SMALL_HINT
    ),
    "SDXL": lambda: ControlNetModel(**SDXL, **SMALL_HINT),
    "SDXL mid": lambda: ControlNetModel(**{**SDXL, **MID}, **SMALL_HINT),
    "SDXL small": lambda: ControlNetModel(**{**SDXL, **SMALL}, **SMALL_HINT),
    "SDXL union": lambda: ControlNetUnionModel(**SDXL),
    "SDXL union of 8 kinds": lambda: ControlNetUnionModel(**SDXL, num_control_type=8),
    "T2I": lambda: T2IAdapter(3, [320, 640, 1280, 1280], 2, 8, "full_adapter").adapter,
    "T2I, grey": lambda: T2IAdapter(1, [320, 640, 1280, 1280], 2, 8, "full_adapter").adapter,
    "T2I, light": lambda: T2IAdapter(3, [320, 640, 1280], 4, 8, "light_adapter").adapter,
    "T2I for SDXL": lambda: T2IAdapter(3, [320, 640, 1280, 1280], 2, 16, "full_adapter_xl").adapter,
    "SD3": lambda: SD3ControlNetModel(num_layers=12, **SD3),
    "SD3, inpainting": lambda: SD3ControlNetModel(num_layers=23, extra_conditioning_channels=1, **SD3),
    "SD3.5 medium": lambda: SD3ControlNetModel(
        num_layers=8, qk_norm="rms_norm", dual_attention_layers=(0, 1, 2), **{**SD3, "pos_embed_max_size": 384}
    ),
    "SD3.5 large": lambda: SD3ControlNetModel(pos_embed_max_size=192, **LARGE),
    "SD3.5 large, Stability AI's": lambda: SD3ControlNetModel(**LEANING),
    "FLUX.1, union": lambda: FluxControlNetModel(num_layers=5, num_single_layers=10, num_mode=10),
    "FLUX.1": lambda: FluxControlNetModel(num_layers=6, num_single_layers=0, guidance_embeds=True),
    "FLUX.1, XLabs'": lambda: FluxControlNetModel(
        num_layers=2, num_single_layers=0, guidance_embeds=True, conditioning_embedding_channels=16, patch_size=2
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_of_a_network_is_worked_out(name: str) -> None:
    with torch.device("meta"):
        shapes = {key: tuple(tensor.shape) for key, tensor in NETWORKS[name]().state_dict().items()}
    tensors = {key: TensorInfo("F32", shape, 0, 4 * prod(shape)) for key, shape in shapes.items()}
    headers = (Header(path=Path("net"), tensors=tensors, metadata={}, data_start=0, file_size=0),)
    spec = read_transformer_control(headers, {}, name)
    if spec is None:
        _, spec = (
            read_control_net(headers, {}, name) or read_t2i_adapter(headers) or pytest.fail("it is not recognised")
        )
    assert control_layout(spec) == shapes
