"""How two networks of one structure are mixed: which share of each goes into which weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from .weight_source import WeightSource


class Share(NamedTuple):
    """How much of two networks goes into the weights whose names begin with `prefix`: W becomes keep W + add W2."""

    prefix: str
    keep: float
    add: float


@dataclass(frozen=True, slots=True)
class Blend:
    """Another network of the same structure, mixed in. Of the shares, the one with the longest fitting prefix counts."""

    other: WeightSource
    shares: tuple[Share, ...]

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return self.other.title

    def apply(self, name: str, weight: Tensor, other: Tensor) -> Tensor:
        """Returns a weight mixed with its counterpart, float32."""
        share = max((s for s in self.shares if name.startswith(s.prefix)), key=lambda share: len(share.prefix))
        return weight * share.keep + share.add * other.to(weight)


def mix(ratio: float) -> tuple[Share, ...]:
    """Returns the shares of a mean of two networks: ratio 1 is the first alone, 0 the second."""
    return (Share("", ratio, 1.0 - ratio),)


def mix_blocks(*, input: float, middle: float, out: float) -> tuple[Share, ...]:
    """Returns the shares of a mean by the part of a UNet; what belongs to none (times, sizes) goes with the input blocks."""
    ratios = {"": input, "mid_block.": middle, "up_blocks.": out, "conv_norm_out.": out, "conv_out.": out}
    return tuple(Share(prefix, ratio, 1.0 - ratio) for prefix, ratio in ratios.items())


def sum_of_both() -> tuple[Share, ...]:
    """Returns the shares of a sum."""
    return (Share("", 1.0, 1.0),)


def difference(factor: float) -> tuple[Share, ...]:
    """Returns the shares of a difference, times a factor."""
    return (Share("", factor, -factor),)
