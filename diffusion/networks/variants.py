"""Variants of a model, or of text encoders: with an adapter laid on, or another one mixed in. No weights are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from ..adapters.files import fit, read_adapter, refusal, unlike
from ..adapters.places import NetworkSpec
from ..checkpoints.parts import file_id
from ..model import Model
from ..types import Clip
from .blending import Blend, Share
from .derived import Patch, with_step

Handle = TypeVar("Handle", Model, Clip)


class AdapterMismatchError(ValueError):
    """An adapter that was made for another network than the one that it is laid on."""


class MergeError(ValueError):
    """Two networks of different structure, which can't be mixed."""


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
    spec = _spec(handle)
    adapter, file = read_adapter(path), file_id(Path(path))
    if strength == 0.0:
        return Adapted(handle)
    fitted = fit(adapter, spec)
    what = "the network" if isinstance(handle, Model) else "the text encoder"
    if wrong := refusal(adapter, fitted, what=f"{what} that it is laid on", family=handle.spec.family):
        raise AdapterMismatchError(f"{adapter.path} {wrong}")
    if not fitted.placed:
        return Adapted(handle, fitted.homeless)
    return Adapted(_derive(handle, Patch(file, strength)), fitted.homeless)


def merge(handle: Handle, other: Handle, shares: tuple[Share, ...]) -> Handle:
    """Returns a model, or text encoders, with another one of the same structure mixed in.

    Adapters on either are part of it. A first convolution of other channels (inpainting) is left as it is. No weights are
    read. Raises MergeError.
    """
    if (reason := unlike(_spec(handle), _spec(other))) is not None:
        raise MergeError(f"{handle.weights.source.title} and {other.weights.source.title} can't be mixed: {reason}")
    return _derive(handle, Blend(other.weights.source, shares))


def _spec(handle: Model | Clip) -> NetworkSpec:
    return handle.spec.network if isinstance(handle, Model) else handle.spec


def _derive(handle: Handle, step: Patch | Blend) -> Handle:
    return replace(handle, weights=replace(handle.weights, source=with_step(handle.weights.source, step)))
