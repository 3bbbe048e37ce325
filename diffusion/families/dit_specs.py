"""The structure of the transformers that denoise latents, as data. Sizes are read from shapes; see `dit_structure`.

All of them see a latent as tokens of `patch` x `patch` cells. This module loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

PATCH = 2  # latent cells along a side of a token, in every one of these but FLUX.2, whose autoencoder does it


@dataclass(frozen=True, slots=True)
class MMDiTSpec:
    """Stable Diffusion 3's transformer: text and picture in a stream each, which attend together. arXiv:2403.03206.

    positions: tokens along a side of its table of positions, the largest picture. query_norm: queries and keys are
    normalised (3.5). dual_attention: the blocks in which the picture also attends to itself alone (3.5 medium).
    """

    in_channels: int
    out_channels: int
    width: int
    depth: int
    heads: int
    context_width: int
    pooled_width: int
    positions: int
    query_norm: bool = False
    dual_attention: tuple[int, ...] = ()

    kind: ClassVar[Literal["mmdit"]] = "mmdit"
    size_numbers: ClassVar[tuple[()]] = ()
    picture_width: ClassVar[None] = None
    guidance: ClassVar[bool] = False
    references: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class FluxSpec:
    """FLUX.1's transformer: blocks with a stream each for text and picture, then blocks with one for both.

    in_channels, out_channels: a latent cell's. guidance: it is told how strongly to follow the prompt, instead of being
    asked twice. axes: how many numbers of each head turn with a token's index, its row and its column.
    """

    in_channels: int
    out_channels: int
    width: int
    heads: int
    double_blocks: int
    single_blocks: int
    context_width: int
    pooled_width: int
    guidance: bool
    axes: tuple[int, int, int]

    kind: ClassVar[Literal["flux"]] = "flux"
    size_numbers: ClassVar[tuple[()]] = ()
    picture_width: ClassVar[None] = None
    references: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Flux2Spec:
    """FLUX.2's transformer: as FLUX.1's, with modulations that all blocks share, gated feed-forwards and no pooled text.

    mlp_width: between the two matrices of a feed-forward. time_width: of the sinusoid for the time. axes: of each head,
    how many numbers turn with a token's picture, row, column and place in the text.
    """

    in_channels: int
    out_channels: int
    width: int
    heads: int
    double_blocks: int
    single_blocks: int
    context_width: int
    mlp_width: int
    time_width: int
    guidance: bool
    axes: tuple[int, int, int, int]

    kind: ClassVar[Literal["flux2"]] = "flux2"
    size_numbers: ClassVar[tuple[()]] = ()
    picture_width: ClassVar[None] = None
    references: ClassVar[bool] = True
    pooled_width: ClassVar[None] = None


DiTSpec = MMDiTSpec | FluxSpec | Flux2Spec
