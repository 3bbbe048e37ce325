"""Adaptive projected guidance: the part of guidance along the positive estimate, which over-saturates, is weighed apart.

Sadat et al. 2024, arXiv:2410.02416. As in ComfyUI 0.8.0 (behaviour), a run's scale says how far guidance goes beyond the
positive estimate: it is the paper's w - 1, so that without a limit, a momentum and a weight this is plain guidance by a
scale that is 1 more.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .guidance import Estimates, ListName
from .options import ProjectedGuidance

ITEM = (-3, -2, -1)  # an item of (B, C, h, w) is one vector


def projected(direction: Tensor, positive: Tensor, *, eta: float, norm_threshold: float) -> Tensor:
    """Returns the direction of guidance, (B, C, h, w), limited in length, and `eta` times of it along the positive estimate.

    The paper's rescaling and projection, section 4, an item of the batch at a time. norm_threshold: the length it has at most,
    in scaled-latent units; 0 is no limit. eta: 1 keeps it as it is, 0 leaves only what is at right angles.
    """
    if norm_threshold > 0:
        length = torch.linalg.vector_norm(direction, dim=ITEM, keepdim=True)
        direction = direction * (norm_threshold / length).clamp(max=1.0)
    along = normalize(positive, dim=ITEM)  # type: ignore[arg-type]
    parallel = (direction * along).sum(dim=ITEM, keepdim=True) * along
    return direction - parallel + eta * parallel


class Projected:
    """Projected guidance of one run, with the average of its directions so far.

    Without guidance, by a scale of 1 or without a negative, it changes nothing. The average begins anew where the noise rises.
    """

    def __init__(self, setting: ProjectedGuidance, scale: float) -> None:
        """scale: of the rule of guidance."""
        self._setting = setting
        self._scale = scale
        self._x: Tensor | None = None
        self._sigma = math.inf
        self._before: Tensor | None = None
        self._average: Tensor | None = None

    @property
    def needs(self) -> frozenset[ListName]:
        return frozenset() if math.isclose(self._scale, 1.0) else frozenset({"negative"})

    def __call__(self, guided: Tensor, estimates: Estimates) -> Tensor:
        negative = estimates.lists.get("negative")
        if negative is None or not self.needs:
            return guided
        setting, positive = self._setting, estimates.lists["positive"]
        towards = positive - negative
        direction = self._averaged(towards, estimates) if setting.momentum else towards
        wanted = projected(direction, positive, eta=setting.eta, norm_threshold=setting.norm_threshold)
        return guided + towards + self._scale * (wanted - towards)

    def _averaged(self, towards: Tensor, estimates: Estimates) -> Tensor:
        """Returns the direction plus what is left of earlier ones. A query that is asked again counts once."""
        sigma = estimates.sigma.flatten()[0].item()
        if sigma > self._sigma:
            self._average = None
        elif estimates.x is self._x and sigma == self._sigma:
            self._average = self._before
        self._x, self._sigma, self._before = estimates.x, sigma, self._average
        self._average = towards if self._before is None else self._setting.momentum * self._before + towards
        return self._average
