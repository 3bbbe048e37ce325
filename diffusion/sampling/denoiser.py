"""Lists of conditions as denoisers D(x; sigma), answered together with as few passes through the network as possible.

Results and the composition of batches are those of ComfyUI 0.8.0 (behaviour), because a batch's composition moves the
last bits of what it holds. Keeps no state between calls but what a run hands in, so that any number of runs may share a
network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..control.residuals import Residuals
from ..levels.space import SamplingSpace
from ..networks.sharing import SharedWork
from .conditioning import PreparedCondition
from .network_inputs import ActiveControl, NetworkInputs, PreparedControl

Network = Callable[[Tensor, Tensor, NetworkInputs], Tensor]
"""(x, timestep, inputs) -> output. x: (B, C, h, w), scaled for the network; timestep: (B,); output like x."""

Steer = Callable[[Tensor, Tensor, NetworkInputs], Residuals | None]
"""(x, timestep, inputs) -> what control networks add inside the network, or None where nothing steers."""

Conditions = Sequence[PreparedCondition]

Joins = dict[tuple[int, ...], NetworkInputs]
"""What the parts of a batch are fed together, by the size of a part and the conditions' ids. It holds for one run."""

LONGEST_REPETITION = 4  # texts of unlike length share a batch if none has to be repeated more often to be as long
NO_WEIGHT = 1e-37  # what the sum of weights starts from, so that a cell without any condition becomes 0 instead of NaN


def unet_network(
    unet: Any, shared: SharedWork | None = None, steer: Steer = lambda x, timestep, inputs: None
) -> Network:
    """Returns diffusers' UNet2DConditionModel as a `Network`, called in the model's own number format, and steered.

    shared: what its passes have in common, of a UNet that `share_work` has changed.
    """

    def predict(x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Tensor:
        convert = Tensor.to if shared is None else shared.converted
        added = None
        if inputs.pooled is not None:
            added = {"text_embeds": convert(inputs.pooled, unet.dtype), "time_ids": inputs.sizes}
        residuals = steer(x, timestep, inputs) or Residuals()
        if inputs.concat is not None:
            x = torch.cat([x, inputs.concat], dim=1)
        if shared is not None:
            shared.begin(inputs.repeats)
        output: Tensor = unet(
            x.to(unet.dtype),
            timestep,
            convert(inputs.context, unet.dtype),
            added_cond_kwargs=added,
            down_block_additional_residuals=residuals.skips or None,
            mid_block_additional_residual=residuals.middle,
            down_intrablock_additional_residuals=list(residuals.levels) or None,
            return_dict=False,
        )[0]
        return output

    return predict


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
    a, b = first.condition.inputs.context.shape[1], other.condition.inputs.context.shape[1]
    return math.lcm(a, b) // min(a, b) <= LONGEST_REPETITION


def _evaluate(
    network: Network, space: SamplingSpace, batch: list[_Part], x: Tensor, sigma: Tensor, joins: Joins
) -> tuple[Tensor, ...]:
    xs = torch.cat([part.crop(x) for part in batch])
    sigmas = sigma if sigma.ndim == 0 else sigma.repeat(len(batch))
    timestep = space.timestep(sigmas).to(x.device).expand(len(xs))
    key = (len(x), *(id(part.condition) for part in batch))
    if key not in joins:
        joins[key] = _join_inputs(batch, len(x))
    inputs = joins[key]
    if batch[0].condition.controls:
        inputs = replace(inputs, controls=_active_controls(batch[0].condition.controls, sigmas))
    output = network(space.scale_input(xs, sigmas), timestep, inputs)
    return space.denoised(xs, output, sigmas).chunk(len(batch))


def _join_inputs(batch: list[_Part], items: int) -> NetworkInputs:
    inputs = [part.condition.inputs for part in batch]
    length = math.lcm(*(entry.context.shape[1] for entry in inputs))
    concats = [None if p.condition.inputs.concat is None else p.crop(p.condition.inputs.concat) for p in batch]
    first = concats[0]
    alike = first is None or all(each is not None and torch.equal(each, first) for each in concats)
    return NetworkInputs(
        context=_join([entry.context.repeat(1, length // entry.context.shape[1], 1) for entry in inputs], items),
        pooled=_join([entry.pooled for entry in inputs], items),
        sizes=_join([entry.sizes for entry in inputs], items),
        concat=_join(concats, items),
        repeats=len(batch) if alike and len({part.condition.window for part in batch}) == 1 else 1,
    )


def _active_controls(controls: Sequence[PreparedControl], sigmas: Tensor) -> tuple[ActiveControl, ...]:
    held = ((control, _holds(control, sigmas)) for control in controls)
    return tuple(ActiveControl(control, holds) for control, holds in held if holds is not None)


def _join(tensors: Sequence[Tensor | None], items: int) -> Any:
    """The tensors, each for `items` latents, one after the other; None if the network takes none."""
    present = [tensor.expand(items, *tensor.shape[1:]) for tensor in tensors if tensor is not None]
    return torch.cat(present) if present else None
