"""What control networks add inside a denoising network in one pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Residuals:
    """Tensors that are added inside a network; none where there is nothing to add.

    In a UNet, (B, C, h, w) each. skips: to its skip connections, outermost first; middle: one, behind its middle; levels:
    behind the last block of each level on the way down, and one more behind the middle. In a transformer, to the picture's
    tokens, (B, N, D) each. blocks, single_blocks: behind each of its blocks; end: one, behind the last of SD3's, where
    diffusers adds nothing.
    """

    skips: Tensors = ()
    middle: Tensors = ()
    levels: Tensors = ()
    blocks: Tensors = ()
    single_blocks: Tensors = ()
    end: Tensors = ()

    def __add__(self, other: Residuals) -> Residuals:
        """Returns the sum of both, tensor by tensor and in this order, because order moves the last bits."""
        return Residuals(*(_sum(getattr(self, each.name), getattr(other, each.name)) for each in fields(self)))

    def map(self, change: Callable[[Tensor], Tensor]) -> Residuals:
        """Returns what becomes of each tensor."""
        return Residuals(*(tuple(map(change, getattr(self, each.name))) for each in fields(self)))

    def outside_of_stretches(self) -> Residuals:
        """Returns what is added outside of the blocks of a transformer that `networks.shallow` takes from an earlier pass.

        Those are all blocks of the first kind but the first, and all of the second; what was added between them is part of what
        is taken.
        """
        first = (0, len(self.blocks) - 1)
        last = len(self.single_blocks) - 1
        return replace(
            self,
            blocks=tuple(x if n in first else torch.zeros_like(x) for n, x in enumerate(self.blocks)),
            single_blocks=tuple(x if n == last else torch.zeros_like(x) for n, x in enumerate(self.single_blocks)),
        )


def _sum(first: Tensors, second: Tensors) -> Tensors:
    if not first or not second:
        return first or second
    return tuple(a + b for a, b in zip(first, second, strict=True))
