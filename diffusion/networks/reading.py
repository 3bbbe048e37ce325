"""The tensors of a weight file, by key: from the mapped file, whichever format it has.

What comes from here leans on the map until it is copied. Pages that were copied are given back, so that a file is never in
memory beside what was made of it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.headers import Header, HeaderError, read_header
from ..checkpoints.parts import FileId
from ..checkpoints.tensors import BLOCKS, TensorInfo
from ..layouts.scales import is_companion, scale_of
from .stored import StoredWeight

_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


class TensorFile:
    """A weight file that is mapped."""

    def __init__(self, header: Header, data: mmap.mmap) -> None:
        self._header, self._data = header, data

    def names(self) -> list[str]:
        """Returns the keys of its tensors; scales are no tensors of their own."""
        return [key for key in self._header.tensors if not is_companion(key)]

    def begin(self, key: str) -> int:
        """Returns where in the file a tensor begins, in bytes."""
        return self._header.data_start + self._header.tensors[key].begin

    def get(self, key: str) -> Tensor | StoredWeight:
        """Returns a tensor as it is in the file; a packed matrix or kernel, or one with a scale, as a stored weight."""
        info = self._header.tensors[key]
        data = self._bytes(key, info)
        if info.dtype in BLOCKS:
            return StoredWeight(data, info.shape, blocks=info.dtype)
        tensor = self._typed(key, info, data)
        scale: float | Tensor | None = None
        if (name := scale_of(key, self._header.tensors)) is not None:
            scale_info = self._header.tensors[name]
            values = self._typed(name, scale_info, self._bytes(name, scale_info)).float()
            scale = values.item() if values.numel() == 1 else values.reshape(-1)
        return StoredWeight(tensor, info.shape, scale) if scale is not None or info.is_packed else tensor

    def release(self, key: str) -> None:
        """Gives back the pages of a tensor, which comes from the file again if it is read again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            info = self._header.tensors[key]
            first = -(-self.begin(key) // mmap.PAGESIZE) * mmap.PAGESIZE
            size = (self._header.data_start + info.end) // mmap.PAGESIZE * mmap.PAGESIZE - first
            if size > 0:
                self._data.madvise(mmap.MADV_DONTNEED, first, size)

    def _bytes(self, key: str, info: TensorInfo) -> Tensor:
        if not info.numel:
            return torch.empty(0, dtype=torch.uint8)
        return torch.frombuffer(self._data, dtype=torch.uint8, offset=self.begin(key), count=info.end - info.begin)

    def _typed(self, key: str, info: TensorInfo, data: Tensor) -> Tensor:
        if info.dtype not in _TYPES:
            found = f"{key!r} in the format {info.dtype}"
            cure = "Convert it to float16 or bfloat16."
            raise HeaderError(self._header.path, found, expected=f"one of {', '.join(_TYPES)}", cure=cure)
        return data.view(_TYPES[info.dtype]).reshape(info.shape)


@contextmanager
def open_tensors(file: FileId) -> Iterator[TensorFile]:
    """Yields the tensors of a file. Raises HeaderError if it is not the one that was opened before."""
    if not file.is_current():
        raise HeaderError(file.path, "a changed file", expected="it as it was opened", cure="Open it again.")
    header = read_header(file.path)
    with file.path.open("rb") as opened:  # private pages, which nobody writes to: torch wants what it could write to
        data: Any = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
    yield TensorFile(header, data)
