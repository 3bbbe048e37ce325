"""RES, refined exponential solver: multistep of order 2 in -ln sigma. Zhang and Chen 2023, arXiv:2308.02157.

Results as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

from torch import Tensor

from . import precise
from .ancestral import ancestral_levels
from .ode import slope
from .problem import Problem, Query, Steps


def res_multistep(problem: Problem, *, eta: float = 0.0, s_noise: float = 1.0) -> Steps:
    """Second order, multistep, one query a step. eta: the share of ancestral noise, none by default."""
    x = problem.x
    history: tuple[Tensor, Tensor, Tensor] | None = (
        None  # the last step's estimate, its level, and where it went down to
    )
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        down, up = ancestral_levels(s, t, eta)
        if history is None or down == 0:
            x = x + slope(x, denoised, s) * (down - s)
        else:
            last, s_last, down_last = history
            h, b_1, b_2 = res_weights(s, down, s_last, down_last)
            x = precise.exp(-h) * x + h * (b_1 * denoised + b_2 * last)
        if eta > 0 and t > 0:
            x = x + problem.noise.normal() * s_noise * up
        history = denoised, s, down
    return x


def res_weights(s: Tensor, down: Tensor, s_last: Tensor, down_last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns a step's length h in -ln sigma, and the weights of its estimate and the last one's.

    s, down: the levels from and to which it goes; s_last, down_last: those of the step before.
    """
    h = precise.log(s) - precise.log(down)
    c_2 = (precise.log(down_last) - precise.log(s_last)) / h
    phi_1 = precise.expm1(-h) / -h
    phi_2 = (phi_1 - 1) / -h
    b_2 = (phi_2 / c_2).nan_to_num(nan=0.0)
    return h, (phi_1 - phi_2 / c_2).nan_to_num(nan=0.0), b_2
