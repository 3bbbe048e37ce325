"""The noise levels of a model, how they relate to the times that its network is told, and to fractions of a run.

Results as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ..samplers import precise
from .limits import LARGEST_LOG
from .space_spec import ContinuousLevels, DiscreteLevels, FlowLevels, FluxLevels, Levels

FloatOrTensor = TypeVar("FloatOrTensor", float, Tensor)

ABOVE_ALL = 999999999.9  # above every sigma, so that a range that starts at 0 holds from the first step
FLUX_LEVELS = 10000
DISCRETE_LEVELS = CONTINUOUS_LEVELS = FLOW_LEVELS = 1000


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
    """Stable Diffusion's levels: timestep is the index of the nearest one, and ln sigma is linear in between.

    stride: of a longer table, every stride-th level counts, the last one among them; timesteps stay its indices.
    """

    sigmas: Tensor
    log_sigmas: Tensor
    stride: int = 1

    def timestep(self, sigma: Tensor) -> Tensor:
        levels = self.log_sigmas.to(sigma.device)
        nearest = (precise.log(sigma)[..., None] - levels).abs().argmin(dim=-1)
        return (nearest * self.stride + (self.stride - 1)).float()

    def sigma(self, timestep: Tensor) -> Tensor:
        levels = self.log_sigmas.to(timestep.device)
        t = ((timestep.float() - (self.stride - 1)) / self.stride).clamp(0, len(levels) - 1)
        low, high, w = t.floor().long(), t.ceil().long(), t.frac()
        return precise.exp((1 - w) * levels[low] + w * levels[high])

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0.0:
            return ABOVE_ALL
        if percent >= 1.0:
            return 0.0
        return self.sigma(torch.tensor((1.0 - percent) * (len(self.sigmas) * self.stride - 1))).item()


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
class FluxTable:
    """FLUX dev's levels: the odds of a level are those of its time, times e^shift. The network is told the level itself."""

    sigmas: Tensor
    shift: float

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma

    def sigma(self, timestep: Tensor) -> Tensor:
        return _with_odds(timestep, self.shift)

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0.0:
            return 1.0
        return 0.0 if percent >= 1.0 else _with_odds(1.0 - percent, self.shift)


@dataclass(frozen=True, eq=False, slots=True)
class LogTable:
    """Every level between two ends, evenly in ln sigma; the network is told ln(sigma) / 4. arXiv:2206.00364, table 1."""

    sigmas: Tensor

    def timestep(self, sigma: Tensor) -> Tensor:
        return 0.25 * precise.log(sigma)

    def sigma(self, timestep: Tensor) -> Tensor:
        return precise.exp(timestep / 0.25)

    def percent_to_sigma(self, percent: float) -> float:
        return _between(self.sigmas, percent)


@dataclass(frozen=True, eq=False, slots=True)
class ArctanTable:
    """Every level between two ends, evenly in ln sigma; the network is told atan(sigma) * 2 / pi. arXiv:2202.00512."""

    sigmas: Tensor

    def timestep(self, sigma: Tensor) -> Tensor:
        return precise.atan(sigma) * 2 / math.pi

    def sigma(self, timestep: Tensor) -> Tensor:
        return precise.tan(timestep * math.pi / 2)

    def percent_to_sigma(self, percent: float) -> float:
        return _between(self.sigmas, percent)


def make_table(levels: Levels) -> SigmaTable:
    """Returns the table of these levels."""
    match levels:
        case DiscreteLevels():
            return _discrete_table(levels)
        case ContinuousLevels():
            return _continuous_table(levels)
        case FlowLevels():
            times = torch.arange(1, FLOW_LEVELS + 1) / FLOW_LEVELS * levels.multiplier
            sigmas = _shifted(times / levels.multiplier, levels.shift)
            return FlowTable(sigmas, levels.shift, levels.multiplier)
        case FluxLevels():
            times = torch.arange(1, FLUX_LEVELS + 1) / FLUX_LEVELS
            return FluxTable(_with_odds(times, levels.shift), levels.shift)


def _discrete_table(levels: DiscreteLevels) -> DiscreteTable:
    roots = levels.beta_start**0.5, levels.beta_end**0.5
    betas = torch.linspace(*roots, DISCRETE_LEVELS, dtype=torch.float64) ** 2
    alphas_cumprod = torch.cumprod(1.0 - betas, dim=0)
    sigmas = ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5
    if levels.zero_terminal_snr:
        sigmas = _rescale_to_zero_terminal_snr(sigmas)
    sigmas = sigmas[levels.stride - 1 :: levels.stride]
    return DiscreteTable(sigmas.float(), sigmas.log().float(), levels.stride)


def _continuous_table(levels: ContinuousLevels) -> LogTable | ArctanTable:
    ends = math.log(levels.sigma_min), math.log(levels.sigma_max)
    sigmas = precise.exp(torch.linspace(*ends, CONTINUOUS_LEVELS))
    return LogTable(sigmas) if levels.time == "log" else ArctanTable(sigmas)


def _between(sigmas: Tensor, percent: float) -> float:
    """The level after a fraction of the way between a table's ends, in ln sigma."""
    if percent <= 0.0:
        return ABOVE_ALL
    if percent >= 1.0:
        return 0.0
    low, high = math.log(sigmas[0].item()), math.log(sigmas[-1].item())
    return math.exp((high - low) * (1.0 - percent) + low)


def _shifted(time: FloatOrTensor, shift: float) -> FloatOrTensor:
    return shift * time / (1 + (shift - 1) * time)


def _with_odds(time: FloatOrTensor, shift: float) -> FloatOrTensor:
    factor = math.exp(min(shift, LARGEST_LOG))
    return factor / (factor + (1 / time - 1))


def _rescale_to_zero_terminal_snr(sigmas: Tensor) -> Tensor:
    """Lin et al. 2023, arXiv:2305.08891, algorithm 1."""
    signal = (1 / (sigmas**2 + 1)).sqrt()  # sqrt(alphas_cumprod)
    first, last = signal[0].clone(), signal[-1].clone()
    signal = (signal - last) * (first / (first - last))
    alphas_cumprod = signal**2
    alphas_cumprod[-1] = 4.8973451890853435e-08  # instead of 0, whose sigma would be infinite; as in ComfyUI 0.8.0
    return ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5
