"""What a sampling space is, as data: what a network's output means, and the noise levels that it knows.

`sampling_space.make_space` builds the space. This module loads no torch, so that nodes can name a space without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PredictionName = Literal["eps", "v_prediction", "edm", "flow", "x0", "img_to_img", "lcm"]


@dataclass(frozen=True, slots=True)
class DiscreteLevels:
    """The 1000 levels of latent diffusion, and of Stable Diffusion 1, 2 and XL. Rombach et al. 2022, arXiv:2112.10752.

    zero_terminal_snr: rescaled so that the top level holds (nearly) no signal. stride: every which level counts. beta_start,
    beta_end: the variances that the first and the last step add; their roots are evenly spaced.
    """

    zero_terminal_snr: bool = False
    stride: int = 1
    beta_start: float = 0.00085  # Stable Diffusion's configs: linear_start, linear_end
    beta_end: float = 0.012


@dataclass(frozen=True, slots=True)
class ContinuousLevels:
    """Every level between two ends. time: the network is told ln(sigma) / 4, or atan(sigma) * 2 / pi.

    Karras et al. 2022, arXiv:2206.00364; Salimans and Ho 2022, arXiv:2202.00512.
    """

    sigma_min: float = 0.002
    sigma_max: float = 120.0
    time: Literal["log", "arctan"] = "log"


@dataclass(frozen=True, slots=True)
class FlowLevels:
    """Rectified flow: levels from 0 to 1, shifted towards noise. Esser et al. 2024, arXiv:2403.03206, eq. 23.

    multiplier: the time that the network is told at level 1: 1000 for SD3, 1 for FLUX schnell and AuraFlow.
    """

    shift: float = 3.0
    multiplier: float = 1000.0


@dataclass(frozen=True, slots=True)
class FluxLevels:
    """Rectified flow as FLUX dev has it: the odds of a level are those of its time, times e^shift."""

    shift: float = 1.15


Levels = DiscreteLevels | ContinuousLevels | FlowLevels | FluxLevels


@dataclass(frozen=True, slots=True)
class SpaceSpec:
    """A sampling space. sigma_data: the std of the data that an "edm" network was trained for, in scaled latents."""

    prediction: PredictionName
    levels: Levels
    sigma_data: float = 1.0


FLUX_PATCH = 16  # pixels along a side of what becomes one token: 8 to a latent cell, 2 cells to a token
FLUX_TOKENS = (256, 256 + 3840)  # of a picture of 256x256 pixels and of 1024x1024: where base and max shift hold


def flux_shift(*, width: int, height: int, base_shift: float = 0.5, max_shift: float = 1.15) -> float:
    """Returns the shift of `FluxLevels` for a picture of this size in pixels: linear in its tokens.

    base_shift, max_shift: for 256x256 and 1024x1024 pixels. As in FLUX's own sampling code.
    """
    few, many = FLUX_TOKENS
    slope = (max_shift - base_shift) / (many - few)
    return slope * width * height / FLUX_PATCH**2 + base_shift - slope * few
