"""Names of SD1's single-file layout for the networks of diffusers and transformers, in both directions.

Sources: CompVis/stable-diffusion (openaimodel.py, autoencoder.py) and the key tables of diffusers' own conversion.
In each map, `n = (R + 1) x + i` places ResNet block i of level x, for R blocks a level.
"""

from __future__ import annotations

import re

import torch

UNET = "model.diffusion_model."
AUTOENCODER = "first_stage_model."
TEXT = "cond_stage_model.transformer.text_model."

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_name(name: str, *, blocks: int, attention: tuple[bool, ...]) -> str:
    """Returns the layout's name, without prefix, of a parameter of diffusers' UNet2DConditionModel.

    `blocks` is the number of ResNet blocks of a down level; `attention` says for each level if it has attention.
    """
    module, _, leaf = name.rpartition(".")
    if module in _UNET_ENDS:
        return f"{_UNET_ENDS[module]}.{leaf}"
    if match := re.fullmatch(r"mid_block\.(\w+\.\d)\.(.+)", name):
        return f"middle_block.{_MIDDLE[match[1]]}.{_inside(match[1], match[2])}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.((\w+)\.(\d+))\.(.+)", name)
    if match is None:
        raise KeyError(f"{name!r} is no parameter of an SD1 UNet")
    side, level, part, index, rest = match[1], int(match[2]), match[4], int(match[5]), match[6]
    if side == "down":
        n = 1 + (blocks + 1) * level + (blocks if part == "downsamplers" else index)
        if part == "downsamplers":
            return f"input_blocks.{n}.0.{rest.replace('conv', 'op', 1)}"
        return f"input_blocks.{n}.{0 if part == 'resnets' else 1}.{_inside(part, rest)}"
    n = (blocks + 1) * level + (blocks if part == "upsamplers" else index)
    if part == "upsamplers":
        return f"output_blocks.{n}.{2 if attention[-1 - level] else 1}.{rest}"
    return f"output_blocks.{n}.{0 if part == 'resnets' else 1}.{_inside(part, rest)}"


def _inside(part: str, rest: str) -> str:
    if not part.startswith("resnets"):
        return rest
    module, _, leaf = rest.rpartition(".")
    return f"{_RESNET[module]}.{leaf}"


def autoencoder_name(name: str, *, levels: int) -> str:
    """Returns the layout's name, without prefix, of a parameter of diffusers' AutoencoderKL."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if match := re.fullmatch(r"(\w+)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
        return f"{match[1]}.mid.attn_1.{_ATTENTION[match[2]]}.{match[3]}"
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{levels - 1 - int(m[1])}.block.", name)
    return re.sub(r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f"up.{levels - 1 - int(m[1])}.upsample.", name)


def text_name(name: str) -> str:
    """Returns the layout's name, without prefix, of a parameter of transformers' CLIPTextModel."""
    return name.removeprefix("text_model.")


def to_layout(name: str, value: torch.Tensor) -> torch.Tensor:
    """Returns a value in the layout's shape: the autoencoder's attention projections are 1x1 convolutions there."""
    is_projection = re.search(r"mid\.attn_1\.(q|k|v|proj_out)\.weight$", name)
    return value[:, :, None, None] if is_projection and value.ndim == 2 else value
