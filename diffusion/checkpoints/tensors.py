"""What a weight file says of its tensors, whatever its format: names, number formats, shapes, places. Reads no file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class HeaderError(ValueError):
    """A weight file that can't be used: which file, what was found, what was expected, what to do."""

    def __init__(self, path: Path, found: str, *, expected: str = "a safetensors file", cure: str) -> None:
        super().__init__(f"{path}: found {found}, expected {expected}. {cure}")
        self.path = path


class Blocks(NamedTuple):
    """A number format that packs `values` numbers of a row into `size` bytes; `code` is GGUF's number for it."""

    code: int
    values: int
    size: int


PLAIN_BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""The bits of a number in the formats of safetensors."""

BLOCKS: Mapping[str, Blocks] = {
    "Q4_0": Blocks(2, 32, 18), "Q4_1": Blocks(3, 32, 20), "Q5_0": Blocks(6, 32, 22), "Q5_1": Blocks(7, 32, 24),
    "Q8_0": Blocks(8, 32, 34), "Q2_K": Blocks(10, 256, 84), "Q3_K": Blocks(11, 256, 110), "Q4_K": Blocks(12, 256, 144),
    "Q5_K": Blocks(13, 256, 176), "Q6_K": Blocks(14, 256, 210), "IQ4_NL": Blocks(20, 32, 18), "IQ4_XS": Blocks(23, 256, 136),
}  # fmt: skip
"""GGUF's formats in blocks that can be widened (llama.cpp's ggml-common.h; the numbers are those of ggml.h)."""

PACKED = frozenset({"F8_E4M3", "F8_E5M2", "I8", *BLOCKS})
"""The formats of weights that stay as they are in memory, and are widened where they are used."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file: the name of its number format, its shape, and its bytes behind `data_start`."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def numel(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)

    @property
    def is_packed(self) -> bool:
        """Whether it is a matrix or a kernel that stays as it is in memory; see `PACKED`."""
        return self.dtype in PACKED and len(self.shape) > 1


@dataclass(frozen=True, eq=False, slots=True)
class Header:
    """What a weight file holds. `data_start` and `file_size` are in bytes."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_start: int
    file_size: int
