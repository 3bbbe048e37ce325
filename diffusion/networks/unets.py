"""How diffusers' UNet2DConditionModel is laid out: its attentions, and the modules of LDM's input blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn


def attentions_of(block: Any) -> Sequence[Any]:
    """Returns the spatial transformers of a block, or of the middle; none where it does not attend."""
    return getattr(block, "attentions", None) or ()


def input_blocks(unet: Any) -> list[nn.Module]:
    """Returns the module whose output each of LDM's input blocks gives, from block 0, the first convolution."""
    return [unet.conv_in, *(last for _, last in _steps_down(unet))]


def first_modules(unet: Any) -> list[nn.Module]:
    """Returns the module that each of LDM's input blocks begins with, and the middle's first one."""
    return [unet.conv_in, *(first for first, _ in _steps_down(unet)), unet.mid_block.resnets[0]]


def _steps_down(unet: Any) -> list[tuple[nn.Module, nn.Module]]:
    """Returns (first module, last module) of each input block behind the first convolution."""
    steps = []
    for block in unet.down_blocks:
        layers = attentions_of(block) or block.resnets
        steps += list(zip(block.resnets, layers, strict=True))
        steps += [(each, each) for each in block.downsamplers or ()]
    return steps
