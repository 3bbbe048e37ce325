"""The controls of a run: handed from prompt to negative prompt, and asked at each step what they add to the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import reduce
from operator import add

from torch import Tensor

from ..control.networks import Controller
from ..control.residuals import Residuals, Tensors
from ..control.sources import LeaningSource
from ..control.specs import ControlSpec
from ..control.transformer_specs import TransformerControlSpec
from ..families.dit_specs import FluxSpec, MMDiTSpec
from ..families.specs import DenoiserSpec
from ..latents.batches import fit_batch
from ..model import Model
from ..networks.memory import Weights
from .conditioning import PreparedCondition
from .guidance import ListName
from .network_inputs import ActiveControl, NetworkInputs, PreparedControl


def spread_controls(
    lists: Mapping[ListName, tuple[PreparedCondition, ...]],
) -> dict[ListName, tuple[PreparedCondition, ...]]:
    """Returns the lists in which every other list has the positive one's controls that are to be spread.

    Each goes to a condition that has none, one after the other; where they are fewer, it goes to a copy of one. A list in
    which a condition has a control of its own, and conditions with a window, are left alone.
    """
    positive = [c for c in lists.get("positive", ()) if c.window is None and c.controls]
    given = [c.controls for c in positive if c.controls[-1].control.spread]
    return {
        name: conditions if name == "positive" else _with_controls(conditions, given)
        for name, conditions in lists.items()
    }


def _with_controls(
    conditions: tuple[PreparedCondition, ...], given: list[tuple[PreparedControl, ...]]
) -> tuple[PreparedCondition, ...]:
    free = [n for n, condition in enumerate(conditions) if condition.window is None and not condition.controls]
    if not free or any(condition.window is None and condition.controls for condition in conditions):
        return conditions
    result = list(conditions)
    for n, controls in enumerate(given):
        at = free[n % len(free)]
        if n < len(free):
            result[at] = replace(conditions[at], controls=controls)
        else:
            result.append(replace(conditions[at], controls=controls))
    return tuple(result)


class Steering:
    """The control networks of a run, in memory as long as `held` is open. What each makes of its picture is kept."""

    def __init__(
        self,
        conditions: Iterable[PreparedCondition],
        held: ExitStack,
        *,
        model: Model,
    ) -> None:
        """Loads the networks that these conditions name, each once, in the precision of the one that they steer.

        model: that one. Raises MemoryBudgetError.
        """
        self._network = model.spec.network
        weights = {c.control.net.weights: None for condition in conditions for c in condition.controls}
        self._networks: dict[Weights, Controller] = {
            each: held.enter_context(_beside(each, model.weights).use()) for each in weights
        }
        self._embedded: dict[PreparedControl, tuple[Tensor, ...]] = {}

    def __call__(self, x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Residuals | None:
        """Returns what the controls of a pass add inside the network, or None; x: (B, C, h, w), scaled for the network."""
        if not inputs.controls:
            return None
        return reduce(add, (self._residuals(active, x, timestep, inputs) for active in inputs.controls))

    def _residuals(self, active: ActiveControl, x: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Residuals:
        control = active.control.control
        network = self._networks[control.net.weights]
        if active.control not in self._embedded:
            self._embedded[active.control] = network.embed(active.control.hint)
        embedded = [_for_items(each, len(x)) for each in self._embedded[active.control]]
        found = network.steer(x, timestep, inputs, embedded, control.net.kinds)
        found = found.map(lambda residual: residual * control.strength)
        if isinstance(active.holds, Tensor):
            holds = active.holds.flatten()
            found = found.map(lambda residual: residual * holds.to(residual).reshape(-1, *[1] * (residual.ndim - 1)))
        return _for_each_block(found, control.net.spec, self._network)


def _beside(weights: Weights, steered: Weights) -> Weights:
    """Returns a control network's weights in the precision of the network that it steers, and with that if it leans on it."""
    source = weights.source.on(steered.source) if isinstance(weights.source, LeaningSource) else weights.source
    return replace(weights, source=source, precision=steered.precision)


def _for_each_block(residuals: Residuals, spec: ControlSpec, network: DenoiserSpec) -> Residuals:
    """Returns what is added in a transformer for each of its blocks, of which control networks copy a part."""
    if not isinstance(spec, TransformerControlSpec):
        return residuals

    def spread(tensors: Tensors, blocks: int) -> Tensors:
        return tuple(tensors[spec.output_behind(n, blocks, len(tensors))] for n in range(blocks)) if tensors else ()

    if isinstance(network, MMDiTSpec):
        return replace(residuals, blocks=spread(residuals.blocks, network.depth))
    assert isinstance(network, FluxSpec), "what steers fits the network"
    blocks, single_blocks = residuals.blocks, residuals.single_blocks
    return replace(
        residuals,
        blocks=spread(blocks, network.double_blocks),
        single_blocks=spread(single_blocks, network.single_blocks),
    )


def _for_items(x: Tensor, items: int) -> Tensor:
    return x.expand(items, *x.shape[1:]) if len(x) == 1 else fit_batch(x, items)
