"""CFG++: samplers that go to the guided estimate, but add back the noise that the negative conditions' estimate sees.

Chung et al. 2024, arXiv:2406.08070. Guidance then works at scales around 1, and x stays nearer to what the network knows.
Each sampler asks for both estimates and is, where the two are one, the sampler whose name it carries (with one
exception that says so). Results as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

from torch import Tensor

from . import precise
from .ancestral import ancestral_levels
from .ode import slope
from .problem import Problem, Query, Steps
from .res_multistep import res_weights


def euler_ancestral_cfg_pp(problem: Problem, *, eta: float = 1.0, s_noise: float = 1.0) -> Steps:
    """First order, one query a step. eta 0 is `euler_cfg_pp`."""
    path, x = problem.space.path, problem.x
    for step, s, t in problem.intervals():
        denoised, negative = yield Query(x, s, step, wants_negative=True)
        if t == 0:
            x = denoised
            continue
        alpha_s, alpha_t = s * precise.exp(path.log_snr(s)), t * precise.exp(path.log_snr(t))
        d = slope(x, alpha_s * negative, s)
        down, up = ancestral_levels(s / alpha_s, t / alpha_t, eta)
        x = alpha_t * denoised + alpha_t * down * d
        if eta > 0:
            x = x + alpha_t * problem.noise.normal() * s_noise * up
    return x


def euler_cfg_pp(problem: Problem) -> Steps:
    """First order, one query a step."""
    return euler_ancestral_cfg_pp(problem, eta=0.0)


def dpmpp_2s_ancestral_cfg_pp(problem: Problem, *, eta: float = 1.0, s_noise: float = 1.0) -> Steps:
    """In -ln sigma, by the estimate at the step's middle; two queries a step, one for a step to 0.

    The last update takes away the middle's negative estimate after adding the start's guided one. That mixture, which is
    ComfyUI's, keeps more noise than it should, so that more steps do not bring this sampler nearer to the exact path.
    """
    x = problem.x
    for step, s, t in problem.intervals():
        denoised, negative = yield Query(x, s, step, wants_negative=True)
        down, up = ancestral_levels(s, t, eta)
        if down == 0:
            x = denoised + slope(x, negative, s) * down
            continue
        middle = precise.exp(precise.log(s).lerp(precise.log(down), 0.5))
        x_middle = middle / s * (x + (denoised - negative)) + (1 - middle / s) * denoised
        denoised_middle, negative_middle = yield Query(x_middle, middle, step, wants_negative=True)
        x = down / s * (x + (denoised - negative_middle)) + (1 - down / s) * denoised_middle
        if eta > 0:
            x = x + problem.noise.normal() * s_noise * up
    return x


def dpmpp_2m_cfg_pp(problem: Problem) -> Steps:
    """Second order, multistep in -ln sigma, one query a step."""
    x = problem.x
    history: tuple[Tensor, Tensor] | None = None  # the last step's negative estimate and length
    for step, s, t in problem.intervals():
        denoised, negative = yield Query(x, s, step, wants_negative=True)
        h = precise.log(s) - precise.log(t)
        towards = -precise.exp(-h) * negative
        if history is not None and t > 0:
            last, h_last = history
            towards = towards - precise.expm1(-h) / (2 * (h_last / h)) * (denoised - last)
        x = denoised + towards + precise.exp(-h) * x
        history = negative, h
    return x


def res_multistep_cfg_pp(problem: Problem, *, eta: float = 0.0, s_noise: float = 1.0) -> Steps:
    """Second order, multistep in -ln sigma, one query a step. eta: the share of ancestral noise, none by default."""
    x = problem.x
    history: tuple[Tensor, Tensor, Tensor] | None = None  # the last negative estimate, its level, and where it went to
    for step, s, t in problem.intervals():
        denoised, negative = yield Query(x, s, step, wants_negative=True)
        down, up = ancestral_levels(s, t, eta)
        if history is None or down == 0:
            x = denoised + slope(x, negative, s) * down
        else:
            last, s_last, down_last = history
            h, b_1, b_2 = res_weights(s, down, s_last, down_last)
            x = precise.exp(-h) * (x + (denoised - negative)) + h * (b_1 * negative + b_2 * last)
        if eta > 0 and t > 0:
            x = x + problem.noise.normal() * s_noise * up
        history = negative, s, down
    return x


def gradient_estimation_cfg_pp(problem: Problem, *, gamma: float = 2.0) -> Steps:
    """First order, corrected by the change of the slope since the last step; one query a step."""
    x = problem.x
    d_last: Tensor | None = None
    for step, s, t in problem.intervals():
        denoised, negative = yield Query(x, s, step, wants_negative=True)
        if t == 0:
            x = denoised
        else:
            d = slope(x, negative, s)
            x = denoised + d * t
            if d_last is not None:
                x = x + (gamma - 1) * (d - d_last) * (t - s)
            d_last = d
    return x
