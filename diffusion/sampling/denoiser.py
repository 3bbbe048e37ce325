"""Lists of conditions as denoisers D(x; sigma), answered together with as few passes through the network as possible.

Results and the composition of batches are those of ComfyUI 0.8.0 (behaviour), because a batch's composition moves the
last bits of what it holds. Keeps no state between calls but what a run hands in, so that any number of runs may share a
network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..levels.space import SamplingSpace
from .calls import Network
from .conditioning import PreparedCondition
from .network_inputs import ActiveControl, NetworkInputs, PreparedControl, join_inputs

Conditions = Sequence[PreparedCondition]

Joins = dict[tuple[int, ...], NetworkInputs]
"""What the parts of a batch are fed together, by the size of a part and the conditions' ids. It holds for one run."""

NO_WEIGHT = 1e-37  # what the sum of weights starts from, so that a cell without any condition becomes 0 instead of NaN


def estimate(
    network: Network,
    space: SamplingSpace,
    lists: Sequence[Conditions],
    x: Tensor,
    sigma: Tensor,
    *,
    max_batch: int | None = None,
    before_pass: Callable[[tuple[int, ...]], None] | None = None,
    joins: Joins | None = None,
) -> list[Tensor]:
    """Returns D(x; sigma), (B, C, h, w), for each list of conditions: the mean of its conditions' by weight.

    A list of which nothing holds at sigma gives zeros. x: (B, C, h, w) in scaled-latent units, not scaled for the
    network. sigma: 0-d, or (B,) where the levels differ. max_batch: the most latents in one pass through the network;
    a condition's own batch of B is never split. before_pass: is told before each pass which list each of the parts of
    its batch is from, by number. joins: what batches of the same conditions were fed before, in this run.
    """
    joins = {} if joins is None else joins
    means = [_WeightedMean(x) for _ in lists]
    pending = [
        _Part(number, means[number], condition, holds)
        for number, conditions in enumerate(lists)
        for condition in conditions
        if (holds := _holds(condition, sigma)) is not None
    ]
    while pending:
        batch = _next_batch(pending, x, max_batch)
        if before_pass is not None:
            before_pass(tuple(part.number for part in batch))
        for part, denoised in zip(batch, _evaluate(network, space, batch, x, sigma, joins), strict=True):
            part.mean.add(denoised, part)
        pending = [part for part in pending if not any(part is done for done in batch)]
    return [mean.result() for mean in means]


class _Part(NamedTuple):
    """A condition to evaluate, and the mean it goes into, that of list `number`.

    holds: 1, or (B, 1, 1, 1) of 1 and 0 where levels differ.
    """

    number: int
    mean: _WeightedMean
    condition: PreparedCondition
    holds: Tensor | float

    def crop(self, latent: Tensor) -> Tensor:
        return latent if self.condition.window is None else self.condition.window.crop(latent)


class _WeightedMean:
    """The mean by weight of the denoised estimates of one list."""

    def __init__(self, x: Tensor) -> None:
        self._sum = torch.zeros_like(x)
        self._weights = x.new_full((len(x), 1, *x.shape[2:]), NO_WEIGHT)

    def add(self, denoised: Tensor, part: _Part) -> None:
        weight = part.condition.weight * part.holds
        part.crop(self._sum).add_(denoised * weight)
        part.crop(self._weights).add_(weight)

    def result(self) -> Tensor:
        return self._sum / self._weights


def _holds(condition: PreparedCondition | PreparedControl, sigma: Tensor) -> Tensor | float | None:
    """Which items a condition or control holds for: 1 is all of them, None is none, a tensor says it of each."""
    if sigma.ndim == 0:
        return 1.0 if condition.sigma_end <= sigma.item() <= condition.sigma_start else None
    within = (sigma >= condition.sigma_end) & (sigma <= condition.sigma_start)
    if within.all():
        return 1.0
    return within.float().reshape(-1, 1, 1, 1) if within.any() else None


def _next_batch(pending: list[_Part], x: Tensor, max_batch: int | None) -> list[_Part]:
    """The parts that go through the network with the first pending one, last first: the negative before the positive.

    If they are too many, the largest whole fraction of them that fits.
    """
    together = [part for part in pending if _batchable(pending[0], part, x)][::-1]
    fitting = len(together) if max_batch is None else max(1, max_batch // len(x))
    fraction = next(k for k in range(1, len(together) + 1) if len(together) // k <= fitting)
    return together[: len(together) // fraction]


def _batchable(first: _Part, other: _Part, x: Tensor) -> bool:
    if first.crop(x).shape != other.crop(x).shape or first.condition.controls != other.condition.controls:
        return False
    return first.condition.inputs.joins(other.condition.inputs)


def _evaluate(
    network: Network, space: SamplingSpace, batch: list[_Part], x: Tensor, sigma: Tensor, joins: Joins
) -> tuple[Tensor, ...]:
    xs = torch.cat([part.crop(x) for part in batch])
    sigmas = sigma if sigma.ndim == 0 else sigma.repeat(len(batch))
    timestep = space.timestep(sigmas).to(x.device).expand(len(xs))
    key = (len(x), *(id(part.condition) for part in batch))
    if key not in joins:
        joins[key] = _inputs_of(batch, len(x))
    inputs = joins[key]
    if batch[0].condition.controls:
        inputs = replace(inputs, controls=_active_controls(batch[0].condition.controls, sigmas))
    output = network(space.scale_input(xs, sigmas), timestep, inputs)
    return space.denoised(xs, output, sigmas).chunk(len(batch))


def _inputs_of(batch: list[_Part], items: int) -> NetworkInputs:
    inputs = []
    for part in batch:
        entry = part.condition.inputs
        inputs.append(entry if entry.concat is None else replace(entry, concat=part.crop(entry.concat)))
    return join_inputs(inputs, items, one_window=len({part.condition.window for part in batch}) == 1)


def _active_controls(controls: Sequence[PreparedControl], sigmas: Tensor) -> tuple[ActiveControl, ...]:
    held = ((control, _holds(control, sigmas)) for control in controls)
    return tuple(ActiveControl(control, holds) for control, holds in held if holds is not None)
