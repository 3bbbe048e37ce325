"""The space in which a network denoises: what its output means, joined with the noise levels it was trained on.

A `SamplingSpace` turns a network into a denoiser D(x; sigma): it scales the input and reads the output. It also noises
a latent, and maps between noise levels, timesteps and fractions of a schedule. Schedules and samplers know a model
through this object alone. It must know no network, no latent format and no guidance.

Invariant: x = alpha(sigma) * latent + sigma * noise at every noise level, with `Path` giving alpha.
Every method takes sigma as a 0-d tensor or per sample, (B,); results as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..samplers.paths import Path
from .predictions import Prediction, make_prediction
from .space_spec import DiscreteLevels, FlowLevels, PredictionName, SpaceSpec
from .tables import SigmaTable, make_table


@dataclass(frozen=True, eq=False, slots=True)
class SamplingSpace:
    """A prediction over a table of noise levels. Tensors: x, noise, latent (B, C, h, w) in scaled-latent units."""

    prediction: Prediction
    table: SigmaTable

    @property
    def path(self) -> Path:
        return self.prediction.path

    @property
    def sigmas(self) -> Tensor:
        """The model's noise levels, float32 (N,), ascending."""
        return self.table.sigmas

    @property
    def sigma_min(self) -> float:
        return self.sigmas[0].item()

    @property
    def sigma_max(self) -> float:
        return self.sigmas[-1].item()

    def timestep(self, sigma: Tensor) -> Tensor:
        """Returns the time that the network is told at `sigma`, float32 of the same shape."""
        return self.table.timestep(sigma)

    def sigma(self, timestep: Tensor) -> Tensor:
        """Returns the noise level at `timestep`, float32 of the same shape."""
        return self.table.sigma(timestep)

    def percent_to_sigma(self, percent: float) -> float:
        """Returns the noise level after this fraction of a run; 0 and less give the top, 1 and more give 0."""
        return self.table.percent_to_sigma(percent)

    def scale_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Returns what the network is fed for x at noise level sigma."""
        return self.prediction.scale_input(x, _per_sample(sigma, x))

    def denoised(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        """Returns D(x; sigma) from the network's output, computed in float32 at least; x is the *unscaled* latent."""
        return self.prediction.denoised(x, output.to(x.dtype), _per_sample(sigma, x))

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, *, max_denoise: bool = False) -> Tensor:
        """Returns `latent` with unit `noise` mixed in up to level sigma.

        max_denoise: sigma is the top of the schedule (see `is_max`), and a run starts from pure noise.
        """
        return self.path.add_noise(_per_sample(sigma, latent), noise, latent, max_denoise=max_denoise)

    def inverse_noise_scaling(self, sigma: Tensor, x: Tensor) -> Tensor:
        """Returns the latent that a run hands on when it ends in x at level sigma (0 when fully denoised)."""
        return self.path.remove_scale(_per_sample(sigma, x), x)

    def is_max(self, sigma: float) -> bool:
        """Says whether a run that starts at sigma starts at (or above) the model's noisiest level."""
        return math.isclose(self.sigma_max, sigma, rel_tol=1e-5) or sigma > self.sigma_max


def make_space(spec: SpaceSpec) -> SamplingSpace:
    """Returns the space that a spec describes."""
    table = make_table(spec.levels)
    return SamplingSpace(make_prediction(spec.prediction, table.timestep, sigma_data=spec.sigma_data), table)


def discrete_space(prediction: PredictionName = "eps", *, zero_terminal_snr: bool = False) -> SamplingSpace:
    """Returns the space of Stable Diffusion 1, 2 and XL."""
    return make_space(SpaceSpec(prediction, DiscreteLevels(zero_terminal_snr=zero_terminal_snr)))


def flow_space(*, shift: float = 3.0, multiplier: float = 1000.0) -> SamplingSpace:
    """Returns the space of a rectified-flow model: Stable Diffusion 3 by default."""
    return make_space(SpaceSpec("flow", FlowLevels(shift, multiplier)))


def _per_sample(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.reshape(-1, *[1] * (x.ndim - 1)) if sigma.ndim else sigma
