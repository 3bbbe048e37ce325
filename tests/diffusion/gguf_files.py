"""Writes GGUF files byte by byte, apart from the code that reads them, so that a wrong reading of the format shows."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

F32, F16, Q8_0, Q4_K = 0, 1, 8, 12


@dataclass
class Entry:
    """A tensor of the file. sides: innermost first, as ggml has them. offset: behind the data's begin, or packed tightly."""

    key: str
    sides: Sequence[int]
    data: bytes
    code: int = F32
    offset: int | None = None


@dataclass
class File:
    """A GGUF file; what is left out is as it should be."""

    entries: Sequence[Entry] = ()
    values: Mapping[str, bytes] = field(default_factory=dict)
    version: int = 3
    tensor_count: int | None = None
    alignment: int = 32

    def packed(self) -> bytes:
        """Returns the bytes of the file."""
        count = len(self.entries) if self.tensor_count is None else self.tensor_count
        head = b"GGUF" + struct.pack("<IQQ", self.version, count, len(self.values))
        head += b"".join(text(key) + value for key, value in self.values.items())
        data = b""
        for entry in self.entries:
            data += b"\0" * (-len(data) % self.alignment)
            offset = len(data) if entry.offset is None else entry.offset
            head += text(entry.key) + struct.pack(f"<I{len(entry.sides)}Q", len(entry.sides), *entry.sides)
            head += struct.pack("<IQ", entry.code, offset)
            data += entry.data
        return head + b"\0" * (-len(head) % self.alignment) + data


def text(value: str) -> bytes:
    """Returns a text as GGUF has it."""
    return struct.pack("<Q", len(value.encode())) + value.encode()


def string(value: str) -> bytes:
    """Returns a value that is a text."""
    return struct.pack("<I", 8) + text(value)


def number(value: int) -> bytes:
    """Returns a value that is an unsigned number of 32 bits."""
    return struct.pack("<II", 4, value)


def strings(*values: str) -> bytes:
    """Returns a value that is a list of texts."""
    return struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(text, values))


def numbers(*values: int) -> bytes:
    """Returns a value that is a list of signed numbers of 32 bits."""
    return struct.pack(f"<IIQ{len(values)}i", 9, 5, len(values), *values)
