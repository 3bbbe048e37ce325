"""What control networks add inside a denoising network in one pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from torch import Tensor

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Residuals:
    """Tensors that are added inside a network; none where there is nothing to add.

    In a UNet, (B, C, h, w) each. skips: to its skip connections, outermost first; middle: one, behind its middle; levels:
    behind the last block of each level on the way down, and one more behind the middle. In a transformer, to the picture's
    tokens, (B, N, D) each. blocks, single_blocks: behind each of its blocks.
    """

    skips: Tensors = ()
    middle: Tensors = ()
    levels: Tensors = ()
    blocks: Tensors = ()
    single_blocks: Tensors = ()

    def __add__(self, other: Residuals) -> Residuals:
        """Returns the sum of both, tensor by tensor and in this order, because order moves the last bits."""
        return Residuals(*(_sum(getattr(self, each.name), getattr(other, each.name)) for each in fields(self)))

    def map(self, change: Callable[[Tensor], Tensor]) -> Residuals:
        """Returns what becomes of each tensor."""
        return Residuals(*(tuple(map(change, getattr(self, each.name))) for each in fields(self)))


def spread_over(tensors: Tensors, blocks: int) -> Tensors:
    """Returns as many tensors as a network has blocks: each serves as many neighbours as it must."""
    if not tensors:
        return ()
    each = -(-blocks // len(tensors))
    return tuple(tensors[n // each] for n in range(blocks))


def _sum(first: Tensors, second: Tensors) -> Tensors:
    if not first or not second:
        return first or second
    return tuple(a + b for a, b in zip(first, second, strict=True))
