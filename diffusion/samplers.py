"""The samplers by name. A sampler is a generator over a `Problem`; see `problem` for what it asks and `drive` for who
answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .adams_samplers import deis, ipndm, ipndm_v, lms
from .ancestral_samplers import ddpm, dpm_2_ancestral, dpmpp_2s_ancestral, euler_ancestral, lcm
from .cfg_pp_samplers import (
    dpmpp_2m_cfg_pp,
    dpmpp_2s_ancestral_cfg_pp,
    euler_ancestral_cfg_pp,
    euler_cfg_pp,
    gradient_estimation_cfg_pp,
    res_multistep_cfg_pp,
)
from .dpm_solver import dpm_adaptive, dpm_fast
from .er_sde import er_sde
from .names import SamplerName, unknown_name
from .ode_samplers import dpm_2, dpmpp_2m, euler, gradient_estimation, heun, heunpp2
from .problem import Problem, Steps
from .res_multistep import res_multistep
from .sa_solver import sa_solver
from .sde_samplers import dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_sde
from .seeds import exp_heun_2_x0, seeds_2, seeds_3
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
    "euler_cfg_pp": Sampler(euler_cfg_pp),
    "euler_ancestral": Sampler(euler_ancestral),
    "euler_ancestral_cfg_pp": Sampler(euler_ancestral_cfg_pp),
    "heun": Sampler(heun),
    "heunpp2": Sampler(heunpp2),
    "exp_heun_2_x0": Sampler(exp_heun_2_x0),
    "exp_heun_2_x0_sde": Sampler(partial(exp_heun_2_x0, eta=1.0)),
    "dpm_2": Sampler(dpm_2, discards_penultimate_sigma=True),
    "dpm_2_ancestral": Sampler(dpm_2_ancestral, discards_penultimate_sigma=True),
    "lms": Sampler(lms),
    "dpm_fast": Sampler(dpm_fast),
    "dpm_adaptive": Sampler(dpm_adaptive),
    "dpmpp_2s_ancestral": Sampler(dpmpp_2s_ancestral),
    "dpmpp_2s_ancestral_cfg_pp": Sampler(dpmpp_2s_ancestral_cfg_pp),
    "dpmpp_sde": Sampler(dpmpp_sde),
    "dpmpp_sde_gpu": Sampler(dpmpp_sde),  # the tree of noise is on the CPU for both, so that a seed is a picture
    "dpmpp_2m": Sampler(dpmpp_2m),
    "dpmpp_2m_cfg_pp": Sampler(dpmpp_2m_cfg_pp),
    "dpmpp_2m_sde": Sampler(dpmpp_2m_sde),
    "dpmpp_2m_sde_gpu": Sampler(dpmpp_2m_sde),
    "dpmpp_2m_sde_heun": Sampler(partial(dpmpp_2m_sde, solver="heun")),
    "dpmpp_2m_sde_heun_gpu": Sampler(partial(dpmpp_2m_sde, solver="heun")),
    "dpmpp_3m_sde": Sampler(dpmpp_3m_sde),
    "dpmpp_3m_sde_gpu": Sampler(dpmpp_3m_sde),
    "ddpm": Sampler(ddpm),
    "lcm": Sampler(lcm),
    "ipndm": Sampler(ipndm),
    "ipndm_v": Sampler(ipndm_v),
    "deis": Sampler(deis),
    "res_multistep": Sampler(res_multistep),
    "res_multistep_cfg_pp": Sampler(res_multistep_cfg_pp),
    "res_multistep_ancestral": Sampler(partial(res_multistep, eta=1.0)),
    "res_multistep_ancestral_cfg_pp": Sampler(partial(res_multistep_cfg_pp, eta=1.0)),
    "gradient_estimation": Sampler(gradient_estimation),
    "gradient_estimation_cfg_pp": Sampler(gradient_estimation_cfg_pp),
    "er_sde": Sampler(er_sde),
    "seeds_2": Sampler(seeds_2),
    "seeds_3": Sampler(seeds_3),
    "sa_solver": Sampler(sa_solver),
    "sa_solver_pece": Sampler(partial(sa_solver, pece=True)),
    "ddim": Sampler(euler, fresh_inpaint_noise=True),  # Song et al. 2021, eta 0: in x and sigma it is Euler's step
    "uni_pc": Sampler(uni_pc, discards_penultimate_sigma=True),
    "uni_pc_bh2": Sampler(partial(uni_pc, variant="bh2"), discards_penultimate_sigma=True),
}


def sampler_named(name: SamplerName) -> Sampler:
    """Returns the sampler of this name. Raises ValueError, with the nearest known name, if there is none."""
    if name not in SAMPLERS:
        raise unknown_name("sampler", name, SAMPLERS)
    return SAMPLERS[name]
