"""Where a run's random numbers come from. Every draw is on the CPU from generators of our own, so that a seed gives the
same picture on every device and the global random state is never touched.

One seed feeds three streams, as in ComfyUI 0.8.0 (behaviour): the initial noise (seed), the noise of each step
(seed + 1 modulo 2^64; ComfyUI fails on the last seed), and the Brownian path of the SDE samplers (entropy = seed).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torchsde import BrownianTree

SEEDS = 2**64  # what torch.Generator.manual_seed takes: 0..2**64 - 1
PATH_DIGITS = 6  # decimals to which torchsde's tree rounds its ends


def initial_noise(shape: Sequence[int], seed: int, batch_index: Sequence[int] | None = None) -> Tensor:
    """Returns standard normal noise, float32 of `shape` (B, C, h, w).

    batch_index: for each item, which item of the seed's endless batch it takes (equal indices, equal noise). None draws
    the whole shape at once, which is items 0..B-1 whenever C * h * w is a multiple of 16 (torch fills blocks of 16).
    """
    generator = torch.Generator().manual_seed(seed)
    if batch_index is None:
        return torch.randn(*shape, generator=generator)
    if len(batch_index) != shape[0]:
        raise ValueError(f"batch_index has {len(batch_index)} entries for {shape[0]} latents; give one for each.")
    draws = [torch.randn(1, *shape[1:], generator=generator) for _ in range(max(batch_index) + 1)]
    return torch.cat([draws[index] for index in batch_index])


def inpaint_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Returns the noise under the unmasked part of a `ddim` run, float32 of `shape`: a run's first step noise."""
    return torch.randn(*shape, generator=_step_generator(seed))


class NoiseSource:
    """The noise that one run of a sampler adds on its way. It belongs to that run: each draw moves it on."""

    def __init__(self, like: Tensor, sigmas: Tensor, seed: int) -> None:
        """like: (B, C, h, w), the shape and device of each draw. sigmas: (n + 1,), the run's whole schedule."""
        self._like = like
        self._sigmas = sigmas
        self._seed = seed
        self._generator = _step_generator(seed)

    def normal(self) -> Tensor:
        """Returns the next draw of standard normal noise, (B, C, h, w)."""
        return torch.randn(self._like.shape, generator=self._generator).to(self._like)

    def brownian(self, s: Tensor, t: Tensor) -> Tensor:
        """Returns a Brownian path's normalised increment from level s to t, standard normal, (B, C, h, w).

        Draws are consistent: an interval's increment is the sum of its parts', whatever the order in which they are
        asked for, so a finer schedule refines the same path. Levels outside the run's are taken as its ends.
        """
        low, high = (round(level, PATH_DIGITS) for level in self._ends)
        lower, upper = sorted((s.item(), t.item()))
        increment: Tensor = self._path(max(lower, low), min(upper, high))
        return ((increment if s < t else -increment) / (t - s).abs().sqrt()).to(self._like)

    @cached_property
    def _ends(self) -> tuple[float, float]:
        return self._sigmas[self._sigmas > 0].min().item(), self._sigmas.max().item()

    @cached_property
    def _path(self) -> BrownianTree:
        from torchsde import BrownianTree  # slow to import, and few samplers need it

        low, high = self._ends
        return BrownianTree(t0=low, w0=torch.zeros(self._like.shape), t1=high, entropy=self._seed)


def _step_generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed + 1) % SEEDS)
