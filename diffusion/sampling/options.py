"""What a model asks of every run with it, beside its weights. Nodes that take a model and give it on set these.

Plain data: `sampling` reads it. This module loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..levels.space_spec import SpaceSpec


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
class SelfAttentionGuidance:
    """Hong et al. 2022, arXiv:2210.00939: away from an estimate in which what the network attends to is blurred."""

    scale: float = 0.5
    blur_sigma: float = 2.0


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """space: takes the place of the family's own sampling space.

    rescale: how far guidance keeps the spread of the positive estimate, 0..1: Lin et al. 2023, arXiv:2305.08891, section
    3.4. gradual_mask: None, or how strictly a soft noise mask says *when* a cell begins to change instead of how much,
    0..1: Levin and Fried 2023, arXiv:2306.00950. free_u: each is applied in turn.
    """

    space: SpaceSpec | None = None
    rescale: float = 0.0
    gradual_mask: float | None = None
    free_u: tuple[FreeU, ...] = ()
    self_attention: SelfAttentionGuidance | None = None
