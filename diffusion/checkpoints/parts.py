"""The part of a file that is one network: which files, and the prefix that its keys have there.

A `Part` is what a network's identity rests on, so it is small and hashable; the shapes are read from headers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..layouts.scales import is_companion
from ..layouts.structure import Shapes
from .headers import Header


@dataclass(frozen=True, slots=True)
class FileId:
    """A file as it was when it was opened. A file that was replaced or written to has another id."""

    path: Path
    size: int
    modified_ns: int

    def is_current(self) -> bool:
        """Returns whether the file is still the one that was opened."""
        try:
            return self == file_id(self.path)
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class Part:
    """The tensors of one network: those whose keys begin with `prefix`; `values` is how many numbers they hold.

    packed_values: how many of these are in a packed format (float8, GGUF's blocks), and packed_bytes what they take in it.
    """

    files: tuple[FileId, ...]
    prefix: str
    values: int
    packed_values: int = 0
    packed_bytes: int = 0

    def bytes(self, itemsize: int) -> int:
        """Returns the bytes of the tensors in memory, where a number that is not packed takes `itemsize`."""
        return (self.values - self.packed_values) * itemsize + self.packed_bytes


def file_id(path: Path) -> FileId:
    """Returns the id of a file as it is now."""
    path = path.resolve()
    stat = path.stat()
    return FileId(path=path, size=stat.st_size, modified_ns=stat.st_mtime_ns)


def find_part(headers: Sequence[Header], prefix: str, own: Collection[str] | None = None) -> Part:
    """Returns the part of these files that has the prefix. own: which of its keys, without prefix, are read; None for all."""
    infos = [
        info
        for header in headers
        for key, info in header.tensors.items()
        if key.startswith(prefix) and (own is None or key[len(prefix) :] in own)
    ]
    packed = [info for info in infos if info.is_packed]
    return Part(
        files=tuple(file_id(header.path) for header in headers),
        prefix=prefix,
        values=sum(info.numel for info in infos),
        packed_values=sum(info.numel for info in packed),
        packed_bytes=sum(info.end - info.begin for info in packed),
    )


def find_shapes(headers: Sequence[Header], prefix: str) -> Shapes:
    """Returns the shapes of a part's tensors, by key without prefix."""
    return {
        key[len(prefix) :]: info.shape
        for header in headers
        for key, info in header.tensors.items()
        if key.startswith(prefix) and not is_companion(key)
    }
