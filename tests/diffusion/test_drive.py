"""Progress and cancellation of a run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.levels.space import discrete_space
from latentgraph.diffusion.names import SamplerName
from latentgraph.diffusion.samplers.catalogue import SAMPLERS
from latentgraph.diffusion.samplers.drive import FinishedStep, observed, run_sampler, unguided
from latentgraph.diffusion.samplers.noise import NoiseSource, initial_noise
from latentgraph.diffusion.samplers.problem import Problem, Steps

SIGMAS = torch.tensor([10.0, 4.0, 1.0, 0.0])
X = initial_noise((1, 4, 8, 8), 0) * 10
by_sampler = pytest.mark.parametrize("name", SAMPLERS)


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    return x / (1 + sigma**2)


def start(name: SamplerName) -> Steps:
    return SAMPLERS[name].start(Problem(X, SIGMAS, discrete_space(), NoiseSource(X, SIGMAS, 0)))


class Cancelled(Exception):
    """Raised by a test's callback."""


@by_sampler
def test_each_step_is_reported_once_and_in_order(name: SamplerName) -> None:
    seen: list[FinishedStep] = []
    result = run_sampler(observed(start(name), 3, seen.append), unguided(denoise))
    steps = [step.step for step in seen]
    if name == "dpm_adaptive":  # makes steps of its own, longer than a schedule's or shorter
        assert steps == sorted(set(steps))
    else:
        assert steps == [0, 1, 2]
    assert (steps[-1], {step.total for step in seen}) == (2, {3})
    assert torch.equal(seen[-1].x, result)


@by_sampler
def test_the_reported_estimate_is_the_one_made_at_the_start_of_the_step(name: SamplerName) -> None:
    seen: list[FinishedStep] = []
    run_sampler(observed(start(name), 3, seen.append), unguided(denoise))
    assert torch.equal(seen[0].denoised, denoise(X, SIGMAS[0]))


@by_sampler
def test_being_observed_changes_nothing(name: SamplerName) -> None:
    def ignore(step: FinishedStep) -> None:
        pass

    watched = run_sampler(observed(start(name), 3, ignore), unguided(denoise))
    assert torch.equal(watched, run_sampler(start(name), unguided(denoise)))


def test_a_step_is_reported_before_the_next_one_is_computed() -> None:
    events: list[str] = []

    def recording(x: Tensor, sigma: Tensor) -> Tensor:
        events.append(f"query {sigma.item():.0f}")
        return denoise(x, sigma)

    run_sampler(observed(start("heun"), 3, lambda step: events.append(f"step {step.step}")), unguided(recording))
    assert events == ["query 10", "query 4", "step 0", "query 4", "query 1", "step 1", "query 1", "step 2"]


def test_a_callback_that_raises_stops_the_run() -> None:
    queries = 0

    def counting(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal queries
        queries += 1
        return denoise(x, sigma)

    def cancel(step: FinishedStep) -> None:
        if step.step == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        run_sampler(observed(start("euler"), 3, cancel), unguided(counting))
    assert queries == 2


def test_an_error_of_the_denoiser_reaches_the_caller() -> None:
    def fail(x: Tensor, sigma: Tensor) -> Tensor:
        raise StopIteration  # would pass for the end of the sampler if the driver were careless

    with pytest.raises(StopIteration):
        run_sampler(start("euler"), unguided(fail))
