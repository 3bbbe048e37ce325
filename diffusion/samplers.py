"""The samplers by name. A sampler is a generator over a `Problem`; see `problem` for what it asks and `drive` for who
answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .names import SamplerName, unknown_name
from .ode_samplers import dpm_2, dpmpp_2m, euler, heun, lms
from .problem import Problem, Steps
from .sde_samplers import dpmpp_2m_sde, dpmpp_sde, euler_ancestral, lcm
from .uni_pc import uni_pc


@dataclass(frozen=True, slots=True)
class Sampler:
    """A way to solve a `Problem`, and what it wants of its surroundings.

    start: begins a run. Options such as eta are bound beforehand (`functools.partial`).
    discards_penultimate_sigma: KSampler gives it a schedule of one more step, less the last level above 0.
    fresh_inpaint_noise: the unmasked part is noised with `inpaint_noise` instead of the run's initial noise.
    """

    start: Callable[[Problem], Steps]
    discards_penultimate_sigma: bool = False
    fresh_inpaint_noise: bool = False


SAMPLERS: dict[SamplerName, Sampler] = {
    "euler": Sampler(euler),
    "euler_ancestral": Sampler(euler_ancestral),
    "heun": Sampler(heun),
    "dpm_2": Sampler(dpm_2, discards_penultimate_sigma=True),
    "lms": Sampler(lms),
    "dpmpp_sde": Sampler(dpmpp_sde),
    "dpmpp_2m": Sampler(dpmpp_2m),
    "dpmpp_2m_sde": Sampler(dpmpp_2m_sde),
    "lcm": Sampler(lcm),
    "ddim": Sampler(euler, fresh_inpaint_noise=True),  # Song et al. 2021, eta 0: in x and sigma it is Euler's step
    "uni_pc": Sampler(uni_pc, discards_penultimate_sigma=True),
}


def sampler_named(name: SamplerName) -> Sampler:
    """Returns the sampler of this name. Raises ValueError, with the nearest known name, if there is none."""
    if name not in SAMPLERS:
        raise unknown_name("sampler", name, SAMPLERS)
    return SAMPLERS[name]
