"""What a network is fed and what its output means, for each kind of prediction. Results as in ComfyUI 0.8.0 (behaviour)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ..samplers import precise
from ..samplers.paths import Path, RectifiedFlow, VarianceExploding
from .space_spec import PredictionName

LCM_SIGMA_DATA = 0.5  # Luo et al. 2023, arXiv:2310.04378
LCM_TIMESTEP_SCALE = 10.0

Timestep = Callable[[Tensor], Tensor]
"""sigma -> the time that the network is told."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a network sees and what it predicts. In both functions sigma is already broadcastable to x.

    scale_input: (x, sigma) -> the network's input.
    denoised: (x, output, sigma) -> the denoised latent D, where x is the unscaled latent.
    """

    path: Path
    scale_input: Callable[[Tensor, Tensor], Tensor]
    denoised: Callable[[Tensor, Tensor, Tensor], Tensor]


def make_prediction(name: PredictionName, timestep: Timestep, *, sigma_data: float = 1.0) -> Prediction:
    """Returns a kind of prediction. sigma_data: the std of the data; timestep: what "lcm" blends its output by."""
    diffusion = VarianceExploding()
    scaled = partial(_unit_variance, sigma_data=sigma_data)
    kinds = {
        "eps": Prediction(diffusion, scaled, _from_noise),
        "v_prediction": Prediction(diffusion, scaled, partial(_from_velocity, sigma_data=sigma_data)),
        "edm": Prediction(diffusion, scaled, partial(_from_edm, sigma_data=sigma_data)),
        "flow": Prediction(RectifiedFlow(), _unscaled, _from_noise),  # the output is noise - latent: as eps
        "x0": Prediction(diffusion, scaled, _as_it_is),
        "img_to_img": Prediction(diffusion, _unscaled, _as_it_is),
        "lcm": Prediction(diffusion, scaled, partial(_consistent, timestep=timestep)),
    }
    return kinds[name]


def _unit_variance(x: Tensor, sigma: Tensor, *, sigma_data: float) -> Tensor:
    return x / precise.sqrt(sigma**2 + sigma_data**2)


def _unscaled(x: Tensor, sigma: Tensor) -> Tensor:
    return x


def _from_noise(x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
    return x - output * sigma


def _from_velocity(x: Tensor, output: Tensor, sigma: Tensor, *, sigma_data: float) -> Tensor:
    """Salimans and Ho 2022, arXiv:2202.00512, appendix D."""
    return _skipped(x, sigma, sigma_data) - output * sigma * sigma_data / precise.sqrt(sigma**2 + sigma_data**2)


def _from_edm(x: Tensor, output: Tensor, sigma: Tensor, *, sigma_data: float) -> Tensor:
    """Karras et al. 2022, arXiv:2206.00364, table 1."""
    return _skipped(x, sigma, sigma_data) + output * sigma * sigma_data / precise.sqrt(sigma**2 + sigma_data**2)


def _skipped(x: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """The best estimate without a network."""
    return x * sigma_data**2 / (sigma**2 + sigma_data**2)


def _as_it_is(x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
    return output


def _consistent(x: Tensor, output: Tensor, sigma: Tensor, *, timestep: Timestep) -> Tensor:
    """The estimate of an eps network that was distilled: x itself at time 0. Luo et al. 2023, arXiv:2310.04378, eq. 9."""
    time = LCM_TIMESTEP_SCALE * timestep(sigma)
    variance = time**2 + LCM_SIGMA_DATA**2
    c_skip, c_out = LCM_SIGMA_DATA**2 / variance, time / precise.sqrt(variance)
    return c_out * _from_noise(x, output, sigma) + c_skip * x
