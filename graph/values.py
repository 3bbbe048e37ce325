"""How values are measured, copied and written down. Knows no tensor: a codec for them is passed in.

A value is packed into plain data and named buffers. The plain codec packs scalars, lists and maps of them; what it does not
know it hands to the codec that the composition root provides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from .ports import SCALARS


class Buffer(NamedTuple):
    """An array in memory: its safetensors dtype ("F32", "U8", ...), its shape, and its bytes, little-endian and contiguous."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Packed:
    """A value written down: JSON data, and buffers by name."""

    data: Any
    buffers: Mapping[str, Buffer] = field(default_factory=dict)


_PLAIN = frozenset((*SCALARS, type(None)))


class ValueCodec(Protocol):
    """Measures, copies and writes down the values of ports."""

    def nbytes(self, value: Any) -> int:
        """Returns about how many bytes of memory a value takes."""
        ...

    def copy(self, value: Any) -> Any:
        """Returns a value that whoever gets it can't use to change the original."""
        ...

    def pack(self, value: Any) -> Packed | None:
        """Returns the value written down, or None if it has no meaning outside this process."""
        ...

    def unpack(self, packed: Packed) -> Any:
        """Returns the value. Raises ValueError if it was written by something else."""
        ...


class PlainCodec:
    """The codec for scalars, and for lists, tuples and maps of what `other` or it itself can write down.

    It knows those classes alone, not what is derived from them: what it writes down comes back as the very same class.
    """

    def __init__(self, other: ValueCodec | None = None) -> None:
        self._other = other

    def nbytes(self, value: Any) -> int:
        """See ValueCodec."""
        kind = type(value)
        if kind in _PLAIN:
            return len(value) + 50 if isinstance(value, str) else 32
        if kind is list or kind is tuple:
            return 64 + sum(map(self.nbytes, value))
        if kind is dict:
            return 64 + sum(map(self.nbytes, value.values()))
        return self._other.nbytes(value) if self._other else 64

    def copy(self, value: Any) -> Any:
        """See ValueCodec."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is list or kind is tuple:
            return kind(self.copy(item) for item in value)
        if kind is dict:
            return {key: self.copy(item) for key, item in value.items()}
        return self._other.copy(value) if self._other else value

    def pack(self, value: Any) -> Packed | None:
        """See ValueCodec."""
        kind = type(value)
        if kind in _PLAIN:
            return Packed({"plain": value})
        if kind is list or kind is tuple:
            return self._pack_all(kind.__name__, dict(enumerate(value)))
        if kind is dict:
            return self._pack_all("map", value) if all(type(key) is str for key in value) else None
        packed = self._other.pack(value) if self._other else None
        return Packed({"other": packed.data}, packed.buffers) if packed else None

    def unpack(self, packed: Packed) -> Any:
        """See ValueCodec."""
        data = packed.data
        if not isinstance(data, dict) or len(data) != 1:
            raise ValueError("a cached value is written in an unknown way")
        ((kind, body),) = data.items()
        if kind == "plain":
            return body
        if kind == "other" and self._other:
            return self._other.unpack(Packed(body, packed.buffers))
        if kind in ("list", "tuple", "map"):
            groups = _by_index(packed.buffers)
            items = {
                name: self.unpack(Packed(item, groups.get(str(index), {}))) for index, (name, item) in enumerate(body)
            }
            return items if kind == "map" else list(items.values()) if kind == "list" else tuple(items.values())
        raise ValueError(f"a cached value is written as {kind!r}, which is unknown here")

    def _pack_all(self, kind: str, items: Mapping[Any, Any]) -> Packed | None:
        body: list[tuple[Any, Any]] = []
        buffers: dict[str, Buffer] = {}
        for index, (name, item) in enumerate(items.items()):
            packed = self.pack(item)
            if packed is None:
                return None
            body.append((name, packed.data))
            buffers.update({f"{index}/{key}": buffer for key, buffer in packed.buffers.items()})
        return Packed({kind: body}, buffers)


def _by_index(buffers: Mapping[str, Buffer]) -> dict[str, dict[str, Buffer]]:
    """Returns the buffers of each item of a list or map, by its index as written."""
    groups: dict[str, dict[str, Buffer]] = {}
    for name, buffer in buffers.items():
        index, _, rest = name.partition("/")
        groups.setdefault(index, {})[rest] = buffer
    return groups
