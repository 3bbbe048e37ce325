"""Running a sampler on its own: answer each query with one denoiser, and tell who asks how far it has come.

`observed` wraps a sampler and is a sampler itself, so a driver needs to know nothing of progress or cancellation. Wrap
it around the sampler first and `masking.masked` around both: then x is the sampler's own and the estimate is masked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from .problem import Answer, Query, Steps, advance

Denoise = Callable[[Query], Answer]
"""Answers a sampler's query. The level may also be (B,), where a driver joins queries whose levels differ."""


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
        state = advance(steps, denoise(state))
    return state


def unguided(estimate: Callable[[Tensor, Tensor], Tensor]) -> Denoise:
    """Returns a denoiser by one function (x, sigma) -> D(x; sigma), which serves as the negative estimate too."""

    def denoise(query: Query) -> Answer:
        denoised = estimate(query.x, query.sigma)
        return Answer(denoised, denoised)

    return denoise


def observed(steps: Steps, total: int, on_step: Callable[[FinishedStep], None]) -> Steps:
    """Relays a sampler of `total` steps and calls `on_step` after each of them; the last is always number total - 1.

    An exception of `on_step` reaches whoever drives the sampler: this is where a cancelled run stops.
    """
    state = advance(steps)
    current, estimate = -1, None
    while isinstance(state, Query):
        answer = yield state
        if estimate is None or state.step != current:
            current, estimate = state.step, answer.denoised
        state = advance(steps, answer)
        if not isinstance(state, Query):
            on_step(FinishedStep(total - 1, total, state, estimate))
        elif state.step != current:
            on_step(FinishedStep(current, total, state.x, estimate))
    return state
