"""Rules that join the estimates for the prompt and for the negative prompt into the one that the sampler follows.

A rule is a value: what it needs and how it joins. It sees estimates in scaled-latent units and never a network, so a
further rule (rescaled, perpendicular, ...) is one more class here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor


class Estimates(NamedTuple):
    """The denoised estimates D(x; sigma), (B, C, h, w), of each list of conditions, and where they were made.

    negative is zero where the rule said that it needs none, or where no negative condition holds.
    """

    x: Tensor
    sigma: Tensor
    positive: Tensor
    negative: Tensor


class Guidance(Protocol):
    """A rule of guidance."""

    @property
    def needs_negative(self) -> bool:
        """Whether the negative conditions have to be evaluated; it saves half of the work if not."""

    def __call__(self, estimates: Estimates) -> Tensor:
        """Returns the guided D(x; sigma), (B, C, h, w)."""


@dataclass(frozen=True, slots=True)
class ClassifierFree:
    """Away from the negative estimate by `scale`; 1 is the positive one alone. Ho and Salimans 2022, arXiv:2207.12598."""

    scale: float

    @property
    def needs_negative(self) -> bool:
        return not math.isclose(self.scale, 1.0)

    def __call__(self, estimates: Estimates) -> Tensor:
        if not self.needs_negative:
            return estimates.positive
        return estimates.negative + (estimates.positive - estimates.negative) * self.scale
