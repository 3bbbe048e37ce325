"""Running a sampler on its own: answer each query with one denoiser, and tell who asks how far it has come.

`observed` wraps a sampler and is a sampler itself, so a driver needs to know nothing of progress or cancellation. Wrap
it around the sampler first and `masking.masked` around both: then x is the sampler's own and the estimate is masked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from .problem import Query, Steps, advance

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x, sigma) -> D(x; sigma). x: (B, C, h, w) in scaled-latent units; sigma: 0-d, or (B,) where levels differ."""


class FinishedStep(NamedTuple):
    """Step number `step`, from 0, of `total` is done: the latent x after it, and the estimate D made at its start."""

    step: int
    total: int
    x: Tensor
    denoised: Tensor


def run_sampler(steps: Steps, denoise: Denoise) -> Tensor:
    """Returns the final x of a sampler whose every query `denoise` answers. An exception of `denoise` ends the run."""
    state = advance(steps)
    while isinstance(state, Query):
        state = advance(steps, denoise(state.x, state.sigma))
    return state


def observed(steps: Steps, total: int, on_step: Callable[[FinishedStep], None]) -> Steps:
    """Relays a sampler of `total` steps and calls `on_step` after each of them.

    An exception of `on_step` reaches whoever drives the sampler: this is where a cancelled run stops.
    """
    state = advance(steps)
    current, estimate = -1, None
    while isinstance(state, Query):
        denoised = yield state
        if estimate is None or state.step != current:
            current, estimate = state.step, denoised
        state = advance(steps, denoised)
        if not isinstance(state, Query) or state.step != current:
            x = state.x if isinstance(state, Query) else state
            on_step(FinishedStep(current, total, x, estimate))
    return state
