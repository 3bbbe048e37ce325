"""What control networks add inside a denoising network in one pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Residuals:
    """Tensors that are added inside a UNet, (B, C, h, w) each; none where there is nothing to add.

    skips: to its skip connections, outermost first; middle: behind its middle; levels: behind the last block of each
    level on the way down, and one more behind the middle.
    """

    skips: tuple[Tensor, ...] = ()
    middle: Tensor | None = None
    levels: tuple[Tensor, ...] = ()

    def __add__(self, other: Residuals) -> Residuals:
        """Returns the sum of both."""
        middles = [middle for middle in (self.middle, other.middle) if middle is not None]
        return Residuals(
            _sum(self.skips, other.skips),
            sum(middles[1:], middles[0]) if middles else None,
            _sum(self.levels, other.levels),
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> Residuals:
        """Returns what becomes of each tensor."""
        return Residuals(
            tuple(map(change, self.skips)),
            None if self.middle is None else change(self.middle),
            tuple(map(change, self.levels)),
        )


def _sum(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Adds tensor by tensor, in this order, because order moves the last bits."""
    if not first or not second:
        return first or second
    return tuple(a + b for a, b in zip(first, second, strict=True))
