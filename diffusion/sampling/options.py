"""What a model asks of every run with it, beside its weights. Nodes that take a model and give it on set these.

Plain data: `sampling` reads it. This module loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..levels.space_spec import SpaceSpec
from ..names import ResizeMethod

if TYPE_CHECKING:
    from ..types import Conditioning


@dataclass(frozen=True, slots=True)
class FreeU:
    """Si et al. 2023, arXiv:2309.11497: in a UNet's decoder, stronger backbone features and weaker skip connections.

    b1, s1: for the blocks of 4 times the model's channels; b2, s2: for those of 2 times. adaptive: the backbone is
    strengthened where it is large already, the paper's later version.
    """

    b1: float
    b2: float
    s1: float
    s2: float
    adaptive: bool = False


@dataclass(frozen=True, slots=True)
class Downscale:
    """Kohya's "deep shrink": a UNet's inner blocks work on smaller features in the noisy part of a run.

    So pictures larger than a network was trained for get one composition. block: behind which of LDM's input blocks. factor: by
    how much it shrinks. start, end: as fractions of the schedule. after_skip: the block's shortcut keeps the full size.
    """

    block: int = 3
    factor: float = 2.0
    start: float = 0.0
    end: float = 0.35
    after_skip: bool = True
    shrink: ResizeMethod = "bicubic"
    grow: ResizeMethod = "bicubic"


@dataclass(frozen=True, slots=True)
class TokenMerging:
    """Bolya and Hoffman 2023, arXiv:2303.17604: at full size, places that look alike ask as one what to attend to.

    ratio: how many of all places are merged into others, 0..1; three quarters at most.
    """

    ratio: float = 0.3


NetworkChange = FreeU | Downscale | TokenMerging
"""What is changed in how a UNet works."""


@dataclass(frozen=True, slots=True)
class SelfAttentionGuidance:
    """Hong et al. 2022, arXiv:2210.00939: away from an estimate in which what the network attends to is blurred."""

    scale: float = 0.5
    blur_sigma: float = 2.0


@dataclass(frozen=True, slots=True)
class PerturbedAttentionGuidance:
    """Ahn et al. 2024, arXiv:2403.17377: away from an estimate by a UNet whose middle sees each place by itself."""

    scale: float = 3.0


@dataclass(frozen=True, slots=True)
class SkipLayerGuidance:
    """Away from an estimate by a transformer without some of its blocks, as published with Stable Diffusion 3.5.

    double, single: which blocks of either kind are left out, from 0. start, end: when, as fractions of the schedule. rescaling:
    how far the spread is brought back to that of the positive estimate.
    """

    double: tuple[int, ...]
    single: tuple[int, ...] = ()
    scale: float = 3.0
    start: float = 0.01
    end: float = 0.15
    rescaling: float = 0.0


@dataclass(frozen=True, slots=True)
class ZeroStar:
    """CFG-Zero*: guidance from a negative estimate scaled to fit the positive one. Fan et al. 2025, arXiv:2503.18886."""


@dataclass(frozen=True, slots=True)
class NormLimit:
    """The guided estimate is nowhere longer, over its channels, than the positive one; then it is multiplied by `strength`."""

    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class ProjectedGuidance:
    """Guidance whose part along the positive estimate is weighed apart. Sadat et al. 2024, arXiv:2410.02416.

    eta: that part's weight. norm_threshold: how long guidance is at most, in scaled-latent units; 0 is no limit. momentum: how
    much of the step before is added to a step; the paper takes a negative one.
    """

    eta: float = 1.0
    norm_threshold: float = 5.0
    momentum: float = 0.0


Correction = (
    SelfAttentionGuidance | PerturbedAttentionGuidance | SkipLayerGuidance | ZeroStar | NormLimit | ProjectedGuidance
)
"""What is done to the guided estimate."""


@dataclass(frozen=True, slots=True)
class PerpNeg:
    """Plain guidance becomes Perp-Neg: what both prompts say in common is not avoided. empty: the encoding of an empty text."""

    empty: Conditioning
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """space: takes the place of the family's own sampling space.

    rescale: how far guidance keeps the spread of the positive estimate, 0..1: Lin et al. 2023, arXiv:2305.08891, section
    3.4. compiled: torch compiles the network's blocks, in every precision but `exact`. gradual_mask: None, or how strictly
    a soft noise mask says *when* a cell begins to change instead of how much, 0..1: Levin and Fried 2023, arXiv:2306.00950.
    quality: None, or the PSNR in dB to which steps may be taken from earlier ones, see `step_cache`. changes,
    corrections: each is applied in turn.
    """

    space: SpaceSpec | None = None
    rescale: float = 0.0
    compiled: bool = False
    gradual_mask: float | None = None
    perp_neg: PerpNeg | None = None
    quality: float | None = None
    changes: tuple[NetworkChange, ...] = ()
    corrections: tuple[Correction, ...] = ()
