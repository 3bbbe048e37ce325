"""Rules that join the estimates for several lists of conditions into the one that the sampler follows.

A rule is a value: which lists it needs, and how it joins them. It sees estimates in scaled-latent units and never a network,
so a further rule is one more class here. This module loads no torch, so that nodes can name a rule without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

NO_LENGTH = 1e-37  # instead of 0, where the positive text is as good as empty and has no direction

ListName = Literal["positive", "second", "negative", "empty"]
"""What a list of conditions is for: what to paint, what else to paint, what to avoid, and nothing at all."""


@dataclass(frozen=True, eq=False, slots=True)
class Estimates:
    """The denoised estimates D(x; sigma), (B, C, h, w), of each list of conditions, and where they were made.

    lists: zero for a list of which nothing holds, or that the rule does not need. rescale: see `SamplingOptions`.
    """

    x: Tensor
    sigma: Tensor
    lists: Mapping[ListName, Tensor]
    rescale: float = 0.0

    def beyond(self, positive: Tensor, negative: Tensor, scale: float) -> Tensor:
        """Returns the estimate that lies `scale` times as far from the negative one as the positive one does.

        Ho and Salimans 2022, arXiv:2207.12598; rescaled if the model asks for it.
        """
        if self.rescale:
            return self._rescaled(positive, negative, scale)
        return negative + (positive - negative) * scale

    def _rescaled(self, positive: Tensor, negative: Tensor, scale: float) -> Tensor:
        """The same for velocities, and brought towards the spread of the positive one. arXiv:2305.08891, section 3.4.

        Estimates come and go as their differences from x, which rounds them as ComfyUI does.
        """
        x = self.x
        sigma = self.sigma.reshape(-1, *[1] * (x.ndim - 1)) if self.sigma.ndim else self.sigma
        std = (sigma**2 + 1.0) ** 0.5
        skipped = x / (sigma**2 + 1.0)

        def velocity(denoised: Tensor) -> Tensor:
            return (skipped - (x - (x - denoised))) * std / sigma

        v_positive, v_negative = velocity(positive), velocity(negative)
        guided = v_negative + scale * (v_positive - v_negative)
        dims = tuple(range(1, x.ndim))
        spread = v_positive.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True)
        guided = self.rescale * (guided * spread) + (1.0 - self.rescale) * guided
        return x - (x - (skipped - guided * sigma / std))


class Guidance(Protocol):
    """A rule of guidance."""

    @property
    def scale(self) -> float:
        """How far it goes beyond the positive estimate; 1 is not at all."""

    @property
    def needs(self) -> frozenset[ListName]:
        """The lists that have to be evaluated; leaving one out saves its share of the work."""

    def __call__(self, estimates: Estimates) -> Tensor:
        """Returns the guided D(x; sigma), (B, C, h, w)."""


@dataclass(frozen=True, slots=True)
class ClassifierFree:
    """Away from the negative estimate by `scale`; 1 is the positive one alone. Ho and Salimans 2022, arXiv:2207.12598."""

    scale: float

    @property
    def needs(self) -> frozenset[ListName]:
        return frozenset({"positive"} if math.isclose(self.scale, 1.0) else {"positive", "negative"})

    def __call__(self, estimates: Estimates) -> Tensor:
        positive = estimates.lists["positive"]
        if "negative" not in self.needs:
            return positive
        return estimates.beyond(positive, estimates.lists["negative"], self.scale)


@dataclass(frozen=True, slots=True)
class Dual:
    """Away from the negative estimate towards the second, and from there on towards the positive.

    Brooks et al. 2022, arXiv:2211.09800, eq. 3, where the second is a picture without its instruction. scale: from the
    second to the positive; second_scale: from the negative to the second.
    """

    scale: float
    second_scale: float

    @property
    def needs(self) -> frozenset[ListName]:
        if not math.isclose(self.second_scale, 1.0):
            return frozenset({"positive", "second", "negative"})
        return frozenset({"positive"} if math.isclose(self.scale, 1.0) else {"positive", "second"})

    def __call__(self, estimates: Estimates) -> Tensor:
        positive = estimates.lists["positive"]
        if self.needs == {"positive"}:
            return positive
        second = estimates.lists["second"]
        start = second
        if "negative" in self.needs:
            start = estimates.beyond(second, estimates.lists["negative"], self.second_scale)
        return start + (positive - second) * self.scale


@dataclass(frozen=True, slots=True)
class Nested:
    """Away from the negative estimate, towards where `scale` leads from the second through the positive."""

    scale: float
    second_scale: float

    @property
    def needs(self) -> frozenset[ListName]:
        return frozenset({"positive", "second", "negative"})

    def __call__(self, estimates: Estimates) -> Tensor:
        negative = estimates.lists["negative"]
        guided = estimates.beyond(estimates.lists["positive"], estimates.lists["second"], self.scale)
        return negative + self.second_scale * (guided - negative)


@dataclass(frozen=True, slots=True)
class Perpendicular:
    """Away from what the negative says and the positive does not: only the part at right angles counts.

    Armandpour et al. 2023, arXiv:2304.04968 (Perp-Neg). Both are taken relative to an empty text. The angle is that of
    whole batches, as in ComfyUI 0.8.0 (behaviour). negative_scale: 0 leaves the negative out.
    """

    scale: float
    negative_scale: float = 1.0

    @property
    def needs(self) -> frozenset[ListName]:
        if not math.isclose(self.negative_scale, 0.0):
            return frozenset({"positive", "negative", "empty"})
        return frozenset({"positive"} if math.isclose(self.scale, 1.0) else {"positive", "empty"})

    def __call__(self, estimates: Estimates) -> Tensor:
        positive = estimates.lists["positive"]
        if self.needs == {"positive"}:
            return positive
        empty = estimates.lists["empty"]
        direction = positive - empty
        if "negative" in self.needs:
            negative = estimates.lists["negative"] - empty
            parallel = (negative * direction).sum() / (direction**2).sum().clamp(min=NO_LENGTH) * direction
            direction = direction - self.negative_scale * (negative - parallel)
        return empty + self.scale * direction
