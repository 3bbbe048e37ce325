"""Where networks come from, as memory sees it: things that load themselves, in the number formats that they are wanted in."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from ..checkpoints.parts import Part
from .precision import NumericPolicy


class WeightSource(Hashable, Protocol):
    """Where a network comes from. Equal sources give equal networks; hashing one is cheap and reads no weights."""

    @property
    def title(self) -> str:
        """What it is, for messages: "UNet of sd15.safetensors"."""

    @property
    def ingredients(self) -> tuple[WeightSource, ...]:
        """The networks that it is made from; none if it is read from files.

        It uses the first one's own tensors where it does not change them, so that one stays in memory as long as it does.
        """

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes of the tensors that are its own once it is loaded, without loading it."""

    def load(self, policy: NumericPolicy, *ingredients: Any) -> Any:
        """Returns the network, on the policy's device and in its number formats, made from the loaded ingredients."""


class FromFiles:
    """A mixin for sources that are read from files."""

    __slots__ = ()

    @property
    def ingredients(self) -> tuple[()]:
        """None: it is read from files."""
        return ()


class OnePart(FromFiles):
    """A mixin for sources that are one part of a file. noun: what such a network is called, for messages."""

    __slots__ = ()

    part: Part
    noun: ClassVar[str]

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"the {self.noun} of {file_names(self.part)}"


@runtime_checkable
class PartlyLoadable(Protocol):
    """A source whose network can take less of a device than all of it: what is left out comes when a layer is used."""

    def least(self, policy: NumericPolicy) -> int:
        """Returns the bytes that it takes at least."""

    def load_within(self, policy: NumericPolicy, room_bytes: int, *ingredients: Any) -> Any:
        """Returns the network with at most so many bytes of its own on the policy's device, if its layers allow it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A source with the formats that its network is wanted in: what one copy in memory is known by."""

    source: WeightSource
    policy: NumericPolicy

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return self.source.title

    @property
    def ingredients(self) -> tuple[Wanted, ...]:
        """What it is made from, in the same formats."""
        return tuple(Wanted(each, self.policy) for each in self.source.ingredients)

    @property
    def size(self) -> int:
        """The bytes of the tensors that are its own once it is loaded."""
        return self.source.size(self.policy)

    @property
    def least(self) -> int:
        """The bytes of its own tensors that a device must take, at least."""
        return self.source.least(self.policy) if isinstance(self.source, PartlyLoadable) else self.size

    def load(self, ingredients: list[Any], room_bytes: int | None) -> Any:
        """Returns the network; room_bytes: how much of it may be on the device, None for all of it."""
        if room_bytes is not None and isinstance(self.source, PartlyLoadable):
            return self.source.load_within(self.policy, room_bytes, *ingredients)
        return self.source.load(self.policy, *ingredients)


def file_names(*parts: Part) -> str:
    """Returns the names of the files that parts are in, for messages."""
    return ", ".join(dict.fromkeys(file.path.name for part in parts for file in part.files))
