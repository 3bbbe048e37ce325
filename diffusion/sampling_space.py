"""The space in which a network denoises: what its output means, joined with the noise levels it was trained on.

A `SamplingSpace` turns a network into a denoiser D(x; sigma): it scales the input and reads the output. It also noises
a latent, and maps between noise levels, timesteps and fractions of a schedule. Schedules and samplers know a model
through this object alone. It must know no network, no latent format and no guidance.

Invariant: x = alpha(sigma) * latent + sigma * noise at every noise level, with `Path` giving alpha.
Every method takes sigma as a 0-d tensor or per sample, (B,); results as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor

from . import precise

PredictionName = Literal["eps", "v_prediction", "flow"]
FloatOrTensor = TypeVar("FloatOrTensor", float, Tensor)


class Path(Protocol):
    """How noise enters: x = alpha(sigma) * latent + sigma * noise."""

    @property
    def is_flow(self) -> bool:
        """True where sigma runs from 0 to 1 and alpha = 1 - sigma (rectified flow), False where alpha = 1."""

    def add_noise(self, sigma: Tensor, noise: Tensor, latent: Tensor, *, max_denoise: bool) -> Tensor:
        """Returns the noisy latent; sigma is already broadcastable to it."""

    def remove_scale(self, sigma: Tensor, x: Tensor) -> Tensor:
        """Returns x / alpha(sigma): what a run that ends at sigma hands on."""

    def log_snr(self, sigma: Tensor) -> Tensor:
        """Returns lambda = ln(alpha / sigma). Lu et al. 2022, arXiv:2206.00927, section 2 (half the log of the SNR)."""

    def sigma_at(self, log_snr: Tensor) -> Tensor:
        """Returns the sigma whose `log_snr` this is."""


class VarianceExploding:
    """alpha = 1; sigma is the noise's std in units of the scaled latent. Karras et al. 2022, arXiv:2206.00364."""

    is_flow = False

    def add_noise(self, sigma: Tensor, noise: Tensor, latent: Tensor, *, max_denoise: bool) -> Tensor:
        """At the top of the schedule x has the std of noise plus unit data, so that pure noise lies on the path."""
        std = precise.sqrt(1.0 + sigma**2) if max_denoise else sigma
        return noise * std + latent

    def remove_scale(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x

    def log_snr(self, sigma: Tensor) -> Tensor:
        return precise.log(sigma).neg()

    def sigma_at(self, log_snr: Tensor) -> Tensor:
        return precise.exp(log_snr.neg())


class RectifiedFlow:
    """alpha = 1 - sigma, sigma in 0..1. Liu et al. 2022, arXiv:2209.03003; Esser et al. 2024, arXiv:2403.03206."""

    is_flow = True

    def add_noise(self, sigma: Tensor, noise: Tensor, latent: Tensor, *, max_denoise: bool) -> Tensor:
        return sigma * noise + (1.0 - sigma) * latent

    def remove_scale(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x / (1.0 - sigma)

    def log_snr(self, sigma: Tensor) -> Tensor:
        return precise.logit(sigma).neg()

    def sigma_at(self, log_snr: Tensor) -> Tensor:
        return precise.sigmoid(log_snr.neg())


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a network sees and what it predicts. In both functions sigma is already broadcastable to x.

    scale_input: (x, sigma) -> the network's input.
    denoised: (x, output, sigma) -> the denoised latent D, where x is the unscaled latent.
    """

    path: Path
    scale_input: Callable[[Tensor, Tensor], Tensor]
    denoised: Callable[[Tensor, Tensor, Tensor], Tensor]


def _unit_variance(x: Tensor, sigma: Tensor) -> Tensor:
    return x / precise.sqrt(sigma**2 + 1.0)


def _unscaled(x: Tensor, sigma: Tensor) -> Tensor:
    return x


def _from_noise(x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
    return x - output * sigma


def _from_velocity(x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
    """Salimans and Ho 2022, arXiv:2202.00512, appendix D, for data of unit std."""
    return x / (sigma**2 + 1.0) - output * sigma / precise.sqrt(sigma**2 + 1.0)


PREDICTIONS: dict[PredictionName, Prediction] = {
    "eps": Prediction(VarianceExploding(), _unit_variance, _from_noise),
    "v_prediction": Prediction(VarianceExploding(), _unit_variance, _from_velocity),
    "flow": Prediction(RectifiedFlow(), _unscaled, _from_noise),  # the output is noise - latent: same formula as eps
}


class SigmaTable(Protocol):
    """The noise levels of a model, ascending, and how they relate to its timesteps and to fractions of a run."""

    @property
    def sigmas(self) -> Tensor:
        """float32 (N,), ascending."""

    def timestep(self, sigma: Tensor) -> Tensor:
        """Returns the time that the network is told, float32, shaped like sigma."""

    def sigma(self, timestep: Tensor) -> Tensor:
        """Returns the noise level at a time, float32, shaped like timestep."""

    def percent_to_sigma(self, percent: float) -> float:
        """Returns the noise level after this fraction of a run: 0 is the noisiest end, 1 is clean."""


@dataclass(frozen=True, eq=False, slots=True)
class DiscreteTable:
    """Stable Diffusion's levels: timestep is the index of the nearest one, and ln sigma is linear in between."""

    sigmas: Tensor
    log_sigmas: Tensor

    def timestep(self, sigma: Tensor) -> Tensor:
        levels = self.log_sigmas.to(sigma.device)
        return (precise.log(sigma)[..., None] - levels).abs().argmin(dim=-1).float()

    def sigma(self, timestep: Tensor) -> Tensor:
        levels = self.log_sigmas.to(timestep.device)
        t = timestep.float().clamp(0, len(levels) - 1)
        low, high, w = t.floor().long(), t.ceil().long(), t.frac()
        return precise.exp((1 - w) * levels[low] + w * levels[high])

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0.0:
            return 999999999.9  # above every sigma, so that a range that starts at 0 holds from the first step
        if percent >= 1.0:
            return 0.0
        return self.sigma(torch.tensor((1.0 - percent) * (len(self.sigmas) - 1))).item()


@dataclass(frozen=True, eq=False, slots=True)
class FlowTable:
    """Rectified flow's levels: evenly spaced times, shifted towards noise. arXiv:2403.03206, eq. 23.

    timestep is multiplier * sigma: the shift is *not* undone, because the network is told the level itself.
    """

    sigmas: Tensor
    shift: float
    multiplier: float

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma * self.multiplier

    def sigma(self, timestep: Tensor) -> Tensor:
        return _shifted(timestep / self.multiplier, self.shift)

    def percent_to_sigma(self, percent: float) -> float:
        return _shifted(1.0 - min(max(percent, 0.0), 1.0), self.shift)


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


def discrete_space(prediction: PredictionName = "eps", *, zero_terminal_snr: bool = False) -> SamplingSpace:
    """Returns the space of Stable Diffusion 1, 2 and XL: 1000 levels of the scaled-linear schedule.

    Rombach et al. 2022, arXiv:2112.10752. zero_terminal_snr rescales so that the top level holds (nearly) no signal:
    Lin et al. 2023, arXiv:2305.08891, algorithm 1.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2  # LDM configs: linear_start, _end
    alphas_cumprod = torch.cumprod(1.0 - betas, dim=0)
    sigmas = ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5
    if zero_terminal_snr:
        sigmas = _rescale_to_zero_terminal_snr(sigmas)
    return SamplingSpace(PREDICTIONS[prediction], DiscreteTable(sigmas.float(), sigmas.log().float()))


def flow_space(*, shift: float = 3.0, multiplier: float = 1000.0) -> SamplingSpace:
    """Returns the space of a rectified-flow model with 1000 levels: Stable Diffusion 3 by default.

    multiplier: the time that the network is told at sigma 1 (1000 for SD3, 1 for FLUX schnell and AuraFlow).
    """
    times = torch.arange(1, 1001) / 1000 * multiplier
    return SamplingSpace(PREDICTIONS["flow"], FlowTable(_shifted(times / multiplier, shift), shift, multiplier))


def _per_sample(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.reshape(-1, *[1] * (x.ndim - 1)) if sigma.ndim else sigma


def _shifted(time: FloatOrTensor, shift: float) -> FloatOrTensor:
    return shift * time / (1 + (shift - 1) * time)


def _rescale_to_zero_terminal_snr(sigmas: Tensor) -> Tensor:
    signal = (1 / (sigmas**2 + 1)).sqrt()  # sqrt(alphas_cumprod)
    first, last = signal[0].clone(), signal[-1].clone()
    signal = (signal - last) * (first / (first - last))
    alphas_cumprod = signal**2
    alphas_cumprod[-1] = 4.8973451890853435e-08  # instead of 0, whose sigma would be infinite; as in ComfyUI 0.8.0
    return ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5
