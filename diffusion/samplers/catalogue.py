"""The samplers by name. A sampler is a generator over a `Problem`; see `problem` for what it asks and `drive` for who
answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from ..names import SamplerName, unknown_name
from ..types import Sampler
from .adams import deis, ipndm, ipndm_v, lms
from .ancestral import ddpm, dpm_2_ancestral, dpmpp_2s_ancestral, euler_ancestral, lcm
from .cfg_pp import (
    dpmpp_2m_cfg_pp,
    dpmpp_2s_ancestral_cfg_pp,
    euler_ancestral_cfg_pp,
    euler_cfg_pp,
    gradient_estimation_cfg_pp,
    res_multistep_cfg_pp,
)
from .dpm_solver import dpm_adaptive, dpm_fast
from .er_sde import er_sde
from .ode import dpm_2, dpmpp_2m, euler, gradient_estimation, heun, heunpp2
from .problem import Steps
from .res_multistep import res_multistep
from .sa_solver import sa_solver
from .sde import dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_sde
from .seeds import exp_heun_2_x0, seeds_2, seeds_3
from .uni_pc import uni_pc


@dataclass(frozen=True, slots=True)
class Method:
    """A way to solve a `Problem`, and what it wants of its surroundings.

    start: begins a run on a `Problem`; options such as eta are keywords.
    discards_penultimate_sigma: KSampler gives it a schedule of one more step, less the last level above 0.
    fresh_inpaint_noise: the unmasked part is noised with `inpaint_noise` instead of the run's initial noise.
    """

    start: Callable[..., Steps]
    discards_penultimate_sigma: bool = False
    fresh_inpaint_noise: bool = False


SAMPLERS: dict[SamplerName, Method] = {
    "euler": Method(euler),
    "euler_cfg_pp": Method(euler_cfg_pp),
    "euler_ancestral": Method(euler_ancestral),
    "euler_ancestral_cfg_pp": Method(euler_ancestral_cfg_pp),
    "heun": Method(heun),
    "heunpp2": Method(heunpp2),
    "exp_heun_2_x0": Method(exp_heun_2_x0),
    "exp_heun_2_x0_sde": Method(partial(exp_heun_2_x0, eta=1.0)),
    "dpm_2": Method(dpm_2, discards_penultimate_sigma=True),
    "dpm_2_ancestral": Method(dpm_2_ancestral, discards_penultimate_sigma=True),
    "lms": Method(lms),
    "dpm_fast": Method(dpm_fast),
    "dpm_adaptive": Method(dpm_adaptive),
    "dpmpp_2s_ancestral": Method(dpmpp_2s_ancestral),
    "dpmpp_2s_ancestral_cfg_pp": Method(dpmpp_2s_ancestral_cfg_pp),
    "dpmpp_sde": Method(dpmpp_sde),
    "dpmpp_sde_gpu": Method(dpmpp_sde),  # the tree of noise is on the CPU for both, so that a seed is a picture
    "dpmpp_2m": Method(dpmpp_2m),
    "dpmpp_2m_cfg_pp": Method(dpmpp_2m_cfg_pp),
    "dpmpp_2m_sde": Method(dpmpp_2m_sde),
    "dpmpp_2m_sde_gpu": Method(dpmpp_2m_sde),
    "dpmpp_2m_sde_heun": Method(partial(dpmpp_2m_sde, solver="heun")),
    "dpmpp_2m_sde_heun_gpu": Method(partial(dpmpp_2m_sde, solver="heun")),
    "dpmpp_3m_sde": Method(dpmpp_3m_sde),
    "dpmpp_3m_sde_gpu": Method(dpmpp_3m_sde),
    "ddpm": Method(ddpm),
    "lcm": Method(lcm),
    "ipndm": Method(ipndm),
    "ipndm_v": Method(ipndm_v),
    "deis": Method(deis),
    "res_multistep": Method(res_multistep),
    "res_multistep_cfg_pp": Method(res_multistep_cfg_pp),
    "res_multistep_ancestral": Method(partial(res_multistep, eta=1.0)),
    "res_multistep_ancestral_cfg_pp": Method(partial(res_multistep_cfg_pp, eta=1.0)),
    "gradient_estimation": Method(gradient_estimation),
    "gradient_estimation_cfg_pp": Method(gradient_estimation_cfg_pp),
    "er_sde": Method(er_sde),
    "seeds_2": Method(seeds_2),
    "seeds_3": Method(seeds_3),
    "sa_solver": Method(sa_solver),
    "sa_solver_pece": Method(partial(sa_solver, pece=True)),
    "ddim": Method(euler, fresh_inpaint_noise=True),  # Song et al. 2021, eta 0: in x and sigma it is Euler's step
    "uni_pc": Method(uni_pc, discards_penultimate_sigma=True),
    "uni_pc_bh2": Method(partial(uni_pc, variant="bh2"), discards_penultimate_sigma=True),
}


def sampler_named(name: SamplerName) -> Method:
    """Returns the sampler of this name. Raises ValueError, with the nearest known name, if there is none."""
    if name not in SAMPLERS:
        raise unknown_name("sampler", name, SAMPLERS)
    return SAMPLERS[name]


def method_of(sampler: Sampler) -> Method:
    """Returns the sampler that was chosen, with its options. Raises ValueError for an unknown name."""
    method = sampler_named(sampler.name)
    return replace(method, start=partial(method.start, **dict(sampler.options))) if sampler.options else method
