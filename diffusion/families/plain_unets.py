"""The UNet of unconditional latent diffusion, which attends to nothing but the picture: its structure, as data.

Rombach et al. 2022, arXiv:2112.10752, table 12. This module loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True, slots=True)
class PlainUNetSpec:
    """A UNet without text. Level 0 is the outermost, at full size.

    widths: channels by level. blocks: res blocks a level on the way down (one more on the way up). attention: whether the
    blocks of a level attend; the middle always does. heads: attention heads by level. scale_shift: the time scales features
    as well as shifting them. resampling: by a convolution, or by a res block.
    """

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]
    heads: tuple[int, ...] = ()
    scale_shift: bool = False
    resampling: Literal["conv", "resnet"] = "conv"

    kind: ClassVar[Literal["plain_unet"]] = "plain_unet"
    context_width: ClassVar[int] = 0
    pooled_width: ClassVar[None] = None
    size_numbers: ClassVar[tuple[()]] = ()
    picture_width: ClassVar[None] = None
    guidance: ClassVar[bool] = False
    references: ClassVar[bool] = False
