"""Steps that are mostly taken from an earlier one, as far as a floor of quality in dB allows.

A shallow estimate is cheap and a little wrong. How wrong is measured on the way: at a full step the shallow estimate is made,
too, and compared. From that follows what a shallow step would add to the error of the finished picture; where the sum would
miss the floor, the step is a full one.

The error of the picture is estimated so. An error e of D at level s moves x by e (1 - t/s) on the way to level t. An error of x
at level s comes to the end as s_data / sqrt(s_data^2 + s^2) times as large where data are Gaussian, and latents are about that,
with s_data = 1. Guidance and multistep samplers enlarge it, for which there is `GAIN`; errors of several steps are as good as
independent, so their squares add up. `PICTURE_GAIN` is what a VAE makes of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..levels.space import SamplingSpace
from ..networks.shallow import Depth
from ..samplers.drive import Denoise
from ..samplers.problem import Answer, Query

GAIN = 2.0
PICTURE_GAIN = 0.5  # RMS of a picture in 0..1 by RMS of a scaled latent; measured: 0.4 to 0.53 for small errors
MAX_AGE = 4  # shallow steps behind each other; beyond that errors were not seen to grow in proportion
MEASURED_FOR = 4  # steps for which a measured error is believed; it falls as the noise does
PATIENCE = 2  # steps to wait before it is measured anew, where it was far too large


class StepCache:
    """Decides for each query of a run whether it is answered shallowly, and keeps account of the error."""

    def __init__(self, quality: float, *, sigmas: Tensor, space: SamplingSpace, depth: Depth) -> None:
        """quality: the PSNR in dB that the picture keeps against the run without cache. sigmas: (n + 1,), the run's levels."""
        self._levels: list[float] = sigmas.tolist()
        self._is_flow = space.path.is_flow
        self._depth = depth
        self._left = (10.0 ** (-quality / 20.0) / PICTURE_GAIN) ** 2
        self._age = 0
        self._full = False
        self._measured: _Measured | None = None

    def wrap(self, denoise: Denoise) -> Denoise:
        """Returns the denoiser with shallow answers where they are good enough."""

        def answer(query: Query) -> Answer:
            if self._affords(query):
                self._age += 1
                return self._shallow(denoise, query)
            compared = self._shallow(denoise, query) if self._measures(query) else None
            result = denoise(query)
            if compared is not None:
                self._measured = _Measured(query.step, self._age + 1, _worst(compared.denoised - result.denoised))
            self._age, self._full = 0, True
            return result

        return answer

    def _shallow(self, denoise: Denoise, query: Query) -> Answer:
        self._depth.shallow = True
        try:
            return denoise(query)
        finally:
            self._depth.shallow = False

    def _affords(self, query: Query) -> bool:
        """Returns whether a shallow step is good enough, and if so, takes its error off what is left."""
        measured = self._measured
        if measured is None or self._age >= MAX_AGE or query.step - measured.step > MEASURED_FOR:
            return False
        error = self._at_the_end(query, measured.error * (self._age + 1) / measured.age) ** 2
        if error > self._left / max(1, len(self._levels) - 1 - query.step):
            return False
        self._left -= error
        return True

    def _measures(self, query: Query) -> bool:
        if not self._full:
            return False  # there is nothing to take yet
        if self._measured is None or self._age >= self._measured.age:
            return True
        return query.step - self._measured.step >= (PATIENCE if self._age == 0 else MEASURED_FOR - 1)

    def _at_the_end(self, query: Query, error: float) -> float:
        """Returns what an error of this estimate comes to in the finished latent."""
        s = float(query.sigma.max())
        t = max((level for level in self._levels if level < s), default=0.0)
        signal = 1.0 - s if self._is_flow else 1.0
        return GAIN * error * (1.0 - t / s) / math.hypot(signal, s) if s > 0.0 else 0.0


@dataclass(frozen=True, slots=True)
class _Measured:
    """The error of a shallow estimate that took over what was `age` steps old. RMS, of the worst picture in the batch."""

    step: int
    age: int
    error: float


def _worst(difference: Tensor) -> float:
    return float(difference.square().flatten(1).mean(dim=1).max().sqrt())
