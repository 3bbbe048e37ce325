"""Networks made from others: a base with adapters laid on it and others mixed in, one after the other, as a copy.

The base's own weights are never changed. A copy shares every tensor with it that nothing touches, so two graphs with
different adapters on one checkpoint hold one copy of what they have in common. What is done to a network is small, frozen
data (`Patch`, `Blend`), which is cheap to compare; `variants` puts it behind a handle.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..adapters.deltas import changed, divided
from ..adapters.files import Change, fit, read_adapter
from ..adapters.places import UNET, NetworkSpec, Target, target_shapes
from ..checkpoints.headers import HeaderError
from ..checkpoints.parts import FileId
from ..families.text_joins import ClipSpec
from .blending import Blend
from .faults import NOT_FINITE, NonFiniteError
from .precision import NumericPolicy
from .sources import DenoiserSource, TextSource
from .stored import LaidOn, StoredModule, can_store, lay_on, unstore
from .weight_source import WeightSource


@dataclass(frozen=True, slots=True)
class Patch:
    """An adapter file laid on a network. strength: 1 is what it was trained for, and a negative one takes it away."""

    file: FileId
    strength: float

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"{self.file.path.name} at {self.strength:g}"


@dataclass(frozen=True, slots=True)
class DerivedSource:
    """A network with adapters laid on it and others mixed in, in the order of the steps."""

    base: DenoiserSource | TextSource
    steps: tuple[Patch | Blend, ...]

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"{self.base.title} with {', '.join(step.title for step in self.steps)}"

    @property
    def spec(self) -> NetworkSpec:
        """The structure, which is the base's."""
        return self.base.spec

    @property
    def ingredients(self) -> tuple[WeightSource, ...]:
        """The base, whose tensors it shares, and what is mixed in."""
        return (self.base, *(step.other for step in self.steps if isinstance(step, Blend)))

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes of the tensors that are changed; packed ones stay, and only what is laid on them is new."""
        return self._size(policy, self.base.packed_networks)

    def least(self, policy: NumericPolicy) -> int:
        """Returns what it takes where every weight stays as it is and is changed whenever it is used."""
        return self._size(policy, {target.network for target in target_shapes(self.spec)})

    def load(self, policy: NumericPolicy, *ingredients: Any) -> Any:
        """Returns the copy of the loaded base with every step taken."""
        return self._loaded(policy, ingredients, everywhere=False)

    def load_within(self, policy: NumericPolicy, room_bytes: int, *ingredients: Any) -> Any:
        """Returns the copy with every step taken anew whenever a weight is used, where that is possible."""
        return self._loaded(policy, ingredients, everywhere=True)

    def _size(self, policy: NumericPolicy, laid_on: Collection[str]) -> int:
        """Returns the bytes of the new tensors. laid_on: the networks whose weights stay where adapters alone change them."""
        formats: dict[str, torch.dtype]
        if isinstance(self.spec, ClipSpec):
            formats = {encoder.key: policy.text_format(encoder.kind) for encoder in self.spec.encoders}
        else:
            formats = {UNET: policy.denoiser(self.spec.kind)}
        shapes = target_shapes(self.spec)
        size = 0
        for target, taken in self._plan().items():
            is_weight = target.tensor.endswith(".weight") and len(shapes[target]) > 1
            if is_weight and target.network in laid_on and _is_laid_on(taken):
                size += sum(each.nbytes for each in taken)
            else:
                size += prod(shapes[target]) * formats[target.network].itemsize
        return size

    def _loaded(self, policy: NumericPolicy, ingredients: Sequence[Any], *, everywhere: bool) -> Any:
        base, *others = ingredients
        rounding = policy.text_rounding if isinstance(self.spec, ClipSpec) else None
        held = dict(_named_weights(base, everywhere=everywhere))
        new: dict[Target, Tensor | list[LaidOn]] = {}
        shapes = target_shapes(self.spec)
        with ExitStack() as stack, torch.no_grad():
            mixed = iter([dict(_named_weights(other)) for other in others])
            sources = [_opened(step.file, stack) if isinstance(step, Patch) else next(mixed) for step in self.steps]
            for target, taken in self._plan().items():
                weight = held[target]
                if isinstance(weight, nn.Module) and _is_laid_on(taken):
                    new[target] = self._laid_on(policy.device, shapes[target], taken, sources)
                else:
                    new[target] = made = _like(weight, self._made(target, weight, taken, sources), rounding)
                    if not made.sum(dtype=torch.float32).isfinite():
                        self._check(target, made, weight, taken, sources)
        return _copy_with(base, new, rounding)

    def _plan(self) -> dict[Target, list[_Taken]]:
        """Returns for each tensor that changes what changes it, in order."""
        plan: dict[Target, list[_Taken]] = {}
        for number, step in enumerate(self.steps):
            if isinstance(step, Patch):
                adapter = read_adapter(step.file.path)
                for target, change in fit(adapter, self.spec).placed:
                    plan.setdefault(target, []).append(_Taken(number, change, adapter.nbytes_of(change)))
            else:
                for target in _shared_targets(self.spec, _spec_of(step.other)):
                    plan.setdefault(target, []).append(_Taken(number))
        return plan

    def _laid_on(
        self, device: torch.device, shape: Sequence[int], taken: Sequence[_Taken], sources: Sequence[Any]
    ) -> list[LaidOn]:
        """Returns what is to be made of a weight of this shape each time that it is used."""
        laid_on = []
        for number, change, _ in taken:
            step = self.steps[number]
            if isinstance(step, Patch) and change is not None:
                form, parts = _parts(change, sources[number], shape)
                on_device = {role: part.to(device) for role, part in parts.items()}
                laid_on.append(LaidOn(form, on_device, step.strength))
        return laid_on

    def _made(
        self, target: Target, held: Tensor | nn.Module, taken: Sequence[_Taken], sources: Sequence[Any]
    ) -> Tensor:
        """Returns a tensor with its changes made, float32."""
        weight = _wide(held)
        for number, change, _ in taken:
            step, source = self.steps[number], sources[number]
            if isinstance(step, Blend):
                weight = step.apply(target.tensor, weight, _wide(source[target]))
            elif change is not None:
                form, parts = _parts(change, source, weight.shape, like=weight)
                weight = changed(weight, form, parts, step.strength)
        return weight

    def _check(
        self,
        target: Target,
        made: Tensor,
        held: Tensor | nn.Module,
        taken: Sequence[_Taken],
        sources: Sequence[Any],
    ) -> None:
        """Raises NonFiniteError for a weight that its changes have broken; one that was broken before shows when it is used."""
        if made.isfinite().all() or not _wide(held).isfinite().all():
            return
        for number, change, _ in taken:
            step = self.steps[number]
            for key in change.keys.values() if isinstance(step, Patch) and change is not None else ():
                if not sources[number].get_tensor(key).isfinite().all():
                    raise NonFiniteError(f"{key} of {step.title} {NOT_FINITE}: the file is damaged; get it again.")
        steps = " and ".join(self.steps[each.step].title for each in taken)
        dtype = str(made.dtype).removeprefix("torch.")
        raise NonFiniteError(
            f"{target.tensor} of {self.base.title} grows too large for {dtype} with {steps}; give smaller strengths."
        )


def with_step(source: Any, step: Patch | Blend) -> DerivedSource:
    """Returns a source with one step more; all steps are taken from one base, in one copy."""
    before = source if isinstance(source, DerivedSource) else DerivedSource(source, ())
    return replace(before, steps=(*before.steps, step))


def _parts(
    change: Change, source: Any, shape: Sequence[int], *, like: Tensor | None = None
) -> tuple[str, Mapping[str, Tensor]]:
    """Returns the form and the tensors of a change to a weight of this shape, in the format of `like` if it is given."""
    parts = {role: source.get_tensor(key) for role, key in change.keys.items()}
    if like is not None:
        parts = {role: part.to(like) for role, part in parts.items()}
    if change.share is None:
        return change.form.name, parts
    return divided(change.form.name, parts, rows=change.share.rows, total=change.share.total, shape=shape)


class _Taken(NamedTuple):
    """A step that changes a tensor, by its number, and for an adapter which of its changes, and its bytes."""

    step: int
    change: Change | None = None
    nbytes: int = 0


def _spec_of(source: Any) -> NetworkSpec:
    spec: NetworkSpec = source.spec
    return spec


def _shared_targets(first: NetworkSpec, second: NetworkSpec) -> list[Target]:
    """Returns the tensors that two networks have in the same shape."""
    others = target_shapes(second)
    return [target for target, shape in target_shapes(first).items() if others.get(target) == shape]


def _named_weights(network: Any, *, everywhere: bool = False) -> Iterator[tuple[Target, Tensor | nn.Module]]:
    """Yields the weights of a network, or of text encoders by key, by the names that adapters' targets have.

    A weight that is not kept as it is computed with is given as the module that has it; everywhere: so is any that could be.
    """
    for key, network_of_key in _modules(network):
        for path, module in network_of_key.named_modules():
            as_module = isinstance(module, StoredModule) or (everywhere and can_store(module))
            names = dict.fromkeys([*module._parameters, *(["weight"] if as_module else [])])
            for leaf in names:
                name = f"{path}.{leaf}".removeprefix("text_model.")
                weight = module if as_module and leaf == "weight" else module._parameters[leaf]
                if weight is not None:
                    yield Target(key, name), weight


def _wide(held: Tensor | nn.Module) -> Tensor:
    """Returns a weight in float32."""
    if isinstance(held, StoredModule):
        return held.made()
    weight = held if isinstance(held, Tensor) else held.get_parameter("weight")
    return weight.to(torch.float32, memory_format=torch.contiguous_format)


def _is_laid_on(taken: Sequence[_Taken]) -> bool:
    """Returns whether all that is done to a weight is adapters', which can be done anew whenever it is widened."""
    return all(each.change is not None for each in taken)


def _modules(network: Any) -> list[tuple[str, nn.Module]]:
    return list(network.items()) if isinstance(network, dict) else [(UNET, network)]


def _copy_with(network: Any, new: Mapping[Target, Tensor | Sequence[LaidOn]], rounding: torch.dtype | None) -> Any:
    """Returns a copy of a network that shares its tensors, but for new ones and for what is laid on those that stay."""
    modules = [module for _, module in _modules(network)]
    shared = {id(w): w for module in modules for w in chain(module.parameters(), module.buffers())}
    copy = deepcopy(network, shared)
    for key, module in _modules(copy):
        places = {name.removeprefix("text_model."): each for name, each in module.named_modules()}
        for target, change in new.items():
            if target.network != key:
                continue
            path, _, leaf = target.tensor.rpartition(".")
            if isinstance(change, Tensor):
                _set(places[path], leaf, change)
            else:
                lay_on(places[path], change, rounding)
    return copy


def _set(module: nn.Module, leaf: str, tensor: Tensor) -> None:
    """Gives a module another tensor."""
    if isinstance(module, StoredModule) and leaf == "weight":
        unstore(module, tensor)
    else:
        setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))


def _like(held: Tensor | nn.Module, weight: Tensor, rounding: torch.dtype | None) -> Tensor:
    """Returns a weight in the number format and memory layout of the one that it takes the place of."""
    rounded = weight if rounding is None else weight.to(rounding)
    if isinstance(held, StoredModule):
        return rounded.to(held.computed[0])
    like = held if isinstance(held, Tensor) else held.get_parameter("weight")
    return torch.empty_like(like, requires_grad=False).copy_(rounded)


def _opened(file: FileId, stack: ExitStack) -> Any:
    if not file.is_current():
        raise HeaderError(file.path, "a changed file", expected="it as it was opened", cure="Load it again.")
    return stack.enter_context(safe_open(file.path, framework="pt", device="cpu"))
