"""The deterministic solvers against the exact case: for Gaussian data of unit std the denoiser is x / (1 + sigma^2) and
the ODE's solution x / sqrt(1 + sigma^2) is constant. Doubling the steps must divide the error by 2^order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.levels.space import discrete_space
from latentgraph.diffusion.samplers.adams import deis, ipndm, ipndm_v, lms
from latentgraph.diffusion.samplers.ancestral import dpm_2_ancestral, dpmpp_2s_ancestral, euler_ancestral
from latentgraph.diffusion.samplers.cfg_pp import (
    dpmpp_2m_cfg_pp,
    euler_cfg_pp,
    gradient_estimation_cfg_pp,
    res_multistep_cfg_pp,
)
from latentgraph.diffusion.samplers.dpm_solver import dpm_adaptive, dpm_fast
from latentgraph.diffusion.samplers.drive import run_sampler, unguided
from latentgraph.diffusion.samplers.er_sde import er_sde
from latentgraph.diffusion.samplers.noise import NoiseSource
from latentgraph.diffusion.samplers.ode import dpm_2, dpmpp_2m, euler, gradient_estimation, heun, heunpp2
from latentgraph.diffusion.samplers.problem import Problem, Steps
from latentgraph.diffusion.samplers.res_multistep import res_multistep
from latentgraph.diffusion.samplers.sa_solver import sa_solver
from latentgraph.diffusion.samplers.sde import dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_sde
from latentgraph.diffusion.samplers.seeds import exp_heun_2_x0, seeds_2, seeds_3
from latentgraph.diffusion.samplers.uni_pc import uni_pc

HIGH, LOW = 10.0, 0.1
FEW, MANY = 41, 161  # dpm_fast ends both with a step of order 2

Solver = Callable[[Problem], Steps]


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    return x / (1 + sigma**2)


def error(start: Solver, steps: int, *, even: bool = False) -> float:
    """even: levels lie evenly in sigma instead of in ln sigma."""
    sigmas = torch.logspace(math.log10(HIGH), math.log10(LOW), steps + 1, dtype=torch.float64)
    if even:
        sigmas = torch.linspace(HIGH, LOW, steps + 1, dtype=torch.float64)
    x = torch.full((1, 1, 1, 1), HIGH, dtype=torch.float64)
    result = run_sampler(start(Problem(x, sigmas, discrete_space(), NoiseSource(x, sigmas, 0))), unguided(denoise))
    return abs(result.item() - HIGH * math.sqrt((1 + LOW**2) / (1 + HIGH**2)))


def order(start: Solver, *, even: bool = False) -> float:
    return math.log(error(start, FEW, even=even) / error(start, MANY, even=even)) / math.log(MANY / FEW)


ode = partial(er_sde, solver="ODE")

ORDERS: dict[str, tuple[Solver, float]] = {
    "euler": (euler, 1),
    "euler_cfg_pp": (euler_cfg_pp, 1),
    "euler_ancestral": (partial(euler_ancestral, eta=0.0), 1),
    "heun": (heun, 2),
    "heunpp2": (heunpp2, 1),  # its further slopes fade out towards the end of a schedule
    "exp_heun_2_x0": (exp_heun_2_x0, 2),
    "dpm_2": (dpm_2, 2),
    "dpm_2_ancestral": (partial(dpm_2_ancestral, eta=0.0), 2),
    "lms of order 1": (partial(lms, order=1), 1),
    "lms of order 2": (partial(lms, order=2), 2),
    "lms": (lms, 2.5),  # order 4 after first steps of order 1 to 3
    "dpm_fast": (dpm_fast, 3),
    "dpmpp_2s_ancestral": (partial(dpmpp_2s_ancestral, eta=0.0), 2),
    "dpmpp_sde": (partial(dpmpp_sde, eta=0.0), 2),
    "dpmpp_2m": (dpmpp_2m, 2),
    "dpmpp_2m_cfg_pp": (dpmpp_2m_cfg_pp, 2),
    "dpmpp_2m_sde": (partial(dpmpp_2m_sde, eta=0.0), 2),
    "dpmpp_2m_sde_heun": (partial(dpmpp_2m_sde, eta=0.0, solver="heun"), 2),
    "dpmpp_3m_sde": (partial(dpmpp_3m_sde, eta=0.0), 2),  # order 3 after first steps of order 1 and 2
    "ipndm": (ipndm, 2),  # on levels that lie unevenly; see below
    "ipndm_v": (ipndm_v, 2.5),
    "deis": (deis, 2.5),  # order 3 after first steps of order 1 and 2
    "res_multistep": (res_multistep, 2),
    "res_multistep_cfg_pp": (res_multistep_cfg_pp, 2),
    "gradient_estimation": (gradient_estimation, 1),
    "gradient_estimation_cfg_pp": (gradient_estimation_cfg_pp, 1),
    "gradient_estimation of gamma 1.5": (partial(gradient_estimation, gamma=1.5), 2),  # that is Adams-Bashforth
    "er_sde of 1 stage": (partial(ode, max_stage=1), 1),
    "er_sde of 2 stages": (partial(ode, max_stage=2), 1.9),  # 2 until the coarseness of its sums shows
    "er_sde": (ode, 1.8),
    "seeds_2": (partial(seeds_2, eta=0.0), 2),
    "seeds_2 of phi_2": (partial(seeds_2, eta=0.0, solver="phi_2"), 2),
    "seeds_3": (partial(seeds_3, eta=0.0), 3),
    "sa_solver": (partial(sa_solver, eta=0.0), 3.5),
    "sa_solver_pece": (partial(sa_solver, eta=0.0, pece=True), 4),
    "sa_solver of simple order 2": (
        partial(sa_solver, eta=0.0, predictor_order=2, corrector_order=2, simple_order_2=True),
        2,
    ),
    "uni_pc": (uni_pc, 2),  # its first and last steps are of lower order than 3
    "uni_pc_bh2": (partial(uni_pc, variant="bh2"), 2),
}


@pytest.mark.parametrize(("start", "expected"), ORDERS.values(), ids=ORDERS)
def test_the_error_falls_with_the_order_of_the_solver(start: Solver, expected: float) -> None:
    assert order(start) > expected - 0.1
    assert error(start, MANY) < 0.01


@pytest.mark.parametrize("start", [ipndm, ipndm_v, lms])
def test_adams_bashforth_reaches_its_order_on_levels_that_lie_evenly(start: Solver) -> None:
    assert math.log2(error(start, 160, even=True) / error(start, 320, even=True)) > 3.8


@pytest.mark.parametrize("start", [ipndm, ipndm_v, lms])
def test_one_step_of_a_multistep_solver_is_eulers(start: Solver) -> None:
    assert error(start, 1) == pytest.approx(error(euler, 1), rel=1e-12)


@pytest.mark.parametrize("start", [heun, dpm_2, dpmpp_2m, lms, uni_pc, deis, dpm_fast, seeds_3, sa_solver])
def test_a_higher_order_beats_euler_at_twenty_steps(start: Solver) -> None:
    quiet = partial(start, eta=0.0) if start in (seeds_3, sa_solver) else start
    assert error(quiet, 20) < error(euler, 20) / 5


@pytest.mark.parametrize("order", [2, 3])
def test_an_adaptive_run_keeps_to_its_tolerance(order: int) -> None:
    for tolerance in (0.1, 0.01, 0.001):
        start = partial(dpm_adaptive, order=order, rtol=tolerance, atol=tolerance / 6)  # type: ignore[arg-type]
        assert error(start, 20) < 1.5 * tolerance


def test_an_adaptive_run_redoes_a_step_that_was_too_long() -> None:
    sigmas, x = torch.tensor([10.0, 1.0, 0.1]), torch.full((1, 1, 1, 1), 10.0)
    levels: list[float] = []

    def recording(x: Tensor, sigma: Tensor) -> Tensor:
        levels.append(sigma.item())
        return denoise(x, sigma)

    problem = Problem(x, sigmas, discrete_space(), NoiseSource(x, sigmas, 0))
    steps = dpm_adaptive(problem, h_init=2.0, rtol=0.001, atol=0.0002)
    run_sampler(steps, unguided(recording))
    assert levels[:4:3] == [10.0, 10.0]
    assert levels[4] > levels[1]


def test_an_adaptive_run_stops_at_a_latent_that_is_not_finite() -> None:
    sigmas, x = torch.tensor([10.0, 1.0, 0.1]), torch.full((1, 1, 1, 1), 10.0)
    steps = dpm_adaptive(Problem(x, sigmas, discrete_space(), NoiseSource(x, sigmas, 0)))
    with pytest.raises(FloatingPointError, match="not finite"):
        run_sampler(steps, unguided(lambda x, sigma: x * torch.nan))


@pytest.mark.parametrize("accept_safety", [2.6, 100.0])  # steps grow by 1 + pi / 2 at most
def test_an_adaptive_run_for_which_no_step_is_good_enough_ends(accept_safety: float) -> None:
    sigmas = torch.tensor([10.0, 1.0, 0.0])
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 10
    steps = dpm_adaptive(Problem(x, sigmas, discrete_space(), NoiseSource(x, sigmas, 0)), accept_safety=accept_safety)
    with pytest.raises(FloatingPointError, match="no end is in sight after steps of"):
        run_sampler(steps, unguided(lambda x, sigma: x / (1 + sigma**2)))


def test_an_adaptive_run_whose_steps_shrink_to_nothing_ends() -> None:
    sigmas = torch.tensor([10.0, 1.0, 0.0])
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 10
    steps = dpm_adaptive(Problem(x, sigmas, discrete_space(), NoiseSource(x, sigmas, 0)), dcoeff=100.0)
    with pytest.raises(FloatingPointError, match="steps became too short to get anywhere; give larger tolerances"):
        run_sampler(steps, unguided(lambda x, sigma: x / (1 + sigma**2)))


def test_an_adaptive_run_takes_any_control_of_its_steps() -> None:
    sigmas = torch.tensor([10.0, 1.0, 0.0])
    x = torch.full((1, 4, 8, 8), 10.0)
    problem = Problem(x, sigmas, discrete_space(), NoiseSource(x, sigmas, 0))
    steps = dpm_adaptive(problem, pcoeff=100.0, icoeff=100.0, dcoeff=0.0)  # powers that a float does not hold
    assert run_sampler(steps, unguided(lambda x, sigma: x / (1 + sigma**2))).isfinite().all()
