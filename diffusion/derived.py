"""Networks made from others: a base with adapters laid on it, one after the other, as a patched copy.

The base's own weights are never changed. A copy shares every tensor with it that no adapter touches, so two graphs with
different adapters on one checkpoint hold one copy of what they have in common. What is laid on a network is small, frozen
data (`Patch`), which goes along with the handle on the weights and is cheap to compare.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from .adapters import UNET, Change, NetworkSpec, Target, fit, read_adapter, refusal, target_shapes
from .deltas import changed
from .families import ClipSpec
from .headers import HeaderError
from .memory import WeightSource
from .parts import FileId, file_id
from .precision import NumericPolicy
from .sources import TextSource, UNetSource
from .types import Clip, Model

Handle = TypeVar("Handle", Model, Clip)


class AdapterMismatchError(ValueError):
    """An adapter that was made for another network than the one that it is laid on."""


@dataclass(frozen=True, slots=True)
class Patch:
    """An adapter file laid on a network. strength: 1 is what it was trained for, and a negative one takes it away."""

    file: FileId
    strength: float


@dataclass(frozen=True, slots=True)
class DerivedSource:
    """A network with adapters laid on it, in this order."""

    base: UNetSource | TextSource
    patches: tuple[Patch, ...]

    @property
    def title(self) -> str:
        """What it is, for messages."""
        names = ", ".join(f"{patch.file.path.name} at {patch.strength:g}" for patch in self.patches)
        return f"{self.base.title} with {names}"

    @property
    def spec(self) -> NetworkSpec:
        """The structure, which is the base's."""
        return self.base.spec

    @property
    def ingredients(self) -> tuple[WeightSource, ...]:
        """The base, whose tensors it shares."""
        return (self.base,)

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes of the tensors that are changed."""
        dtype = policy.text if isinstance(self.spec, ClipSpec) else policy.unet
        shapes = target_shapes(self.spec)
        return sum(prod(shapes[target]) for target in self._plan()) * dtype.itemsize

    def load(self, policy: NumericPolicy, *ingredients: Any) -> Any:
        """Returns the patched copy of the loaded base."""
        (base,) = ingredients
        rounding = policy.text_rounding if isinstance(self.spec, ClipSpec) else None
        tensors = dict(_named_tensors(base))
        with ExitStack() as stack, torch.no_grad():
            files = [_opened(patch.file, stack) for patch in self.patches]
            new = {
                target: _stored(self._apply(tensors[target], steps, files), tensors[target], rounding)
                for target, steps in self._plan().items()
            }
        return _copy_with(base, new)

    def _plan(self) -> dict[Target, list[tuple[int, Change]]]:
        """Returns for each tensor that changes the changes, each with the number of its patch, in order."""
        plan: dict[Target, list[tuple[int, Change]]] = {}
        for number, patch in enumerate(self.patches):
            for target, change in fit(read_adapter(patch.file.path), self.spec).placed:
                plan.setdefault(target, []).append((number, change))
        return plan

    def _apply(self, tensor: Tensor, steps: Sequence[tuple[int, Change]], files: Sequence[Any]) -> Tensor:
        """Returns a tensor with its changes made, float32."""
        weight = tensor.to(torch.float32, memory_format=torch.contiguous_format)
        for number, change in steps:
            parts = {role: files[number].get_tensor(key).to(weight) for role, key in change.keys.items()}
            weight = changed(weight, change.form.name, parts, self.patches[number].strength)
        return weight


@dataclass(frozen=True, eq=False, slots=True)
class Adapted(Generic[Handle]):
    """A model, or text encoders, with an adapter on them. unused: modules of the file that have no place there."""

    handle: Handle
    unused: tuple[str, ...] = ()


def adapt(handle: Handle, path: Path | str, *, strength: float = 1.0) -> Adapted[Handle]:
    """Returns a model, or text encoders, with an adapter laid on them; a strength of 0 leaves them as they are.

    No weights are read. Raises HeaderError for a file that is no adapter, and AdapterMismatchError for one that was made for
    another network.
    """
    spec: NetworkSpec = handle.spec.network if isinstance(handle, Model) else handle.spec
    adapter, file = read_adapter(path), file_id(Path(path))
    if strength == 0.0:
        return Adapted(handle)
    fitted = fit(adapter, spec)
    what = "the network" if isinstance(handle, Model) else "the text encoder"
    if wrong := refusal(adapter, fitted, what=f"{what} that it is laid on", family=handle.spec.family):
        raise AdapterMismatchError(f"{adapter.path} {wrong}")
    if not fitted.placed:
        return Adapted(handle, fitted.homeless)
    weights = replace(handle.weights, source=_with_patch(handle.weights.source, Patch(file, strength)))
    return Adapted(replace(handle, weights=weights), fitted.homeless)


def _with_patch(source: Any, patch: Patch) -> DerivedSource:
    """Returns a source with one patch more. Patches on a patched network are all laid on its base, in one copy."""
    derived = source if isinstance(source, DerivedSource) else DerivedSource(source, ())
    return replace(derived, patches=(*derived.patches, patch))


def _named_tensors(network: Any) -> Iterator[tuple[Target, Tensor]]:
    """Yields the parameters of a UNet, or of text encoders by key, by the names that adapters' targets have."""
    for key, module in _modules(network):
        for name, tensor in module.named_parameters():
            yield Target(key, name.removeprefix("text_model.")), tensor


def _modules(network: Any) -> list[tuple[str, nn.Module]]:
    return list(network.items()) if isinstance(network, dict) else [(UNET, network)]


def _copy_with(network: Any, new: Mapping[Target, Tensor]) -> Any:
    """Returns a copy of a network that shares its tensors, but for new ones."""
    modules = [module for _, module in _modules(network)]
    shared = {id(w): w for module in modules for w in chain(module.parameters(), module.buffers())}
    copy = deepcopy(network, shared)
    for key, module in _modules(copy):
        for name, _ in list(module.named_parameters()):
            tensor = new.get(Target(key, name.removeprefix("text_model.")))
            if tensor is not None:
                path, _, leaf = name.rpartition(".")
                setattr(module.get_submodule(path), leaf, nn.Parameter(tensor, requires_grad=False))
    return copy


def _stored(weight: Tensor, like: Tensor, rounding: torch.dtype | None) -> Tensor:
    """Returns a weight in the number format and memory layout of the one that it takes the place of."""
    rounded = weight if rounding is None else weight.to(rounding)
    return torch.empty_like(like, requires_grad=False).copy_(rounded)


def _opened(file: FileId, stack: ExitStack) -> Any:
    if not file.is_current():
        raise HeaderError(file.path, "a changed file", expected="it as it was opened", cure="Load it again.")
    return stack.enter_context(safe_open(file.path, framework="pt", device="cpu"))
