"""The tensors of a weight file, by key: from the mapped file, whichever format it has.

What comes from here leans on the file until it is copied.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from ..checkpoints.gguf import MAGIC
from ..checkpoints.headers import Header, HeaderError, read_header
from ..checkpoints.parts import FileId
from ..checkpoints.scales import is_companion, scale_of
from ..checkpoints.tensors import BLOCKS
from .stored import StoredWeight

_GGUF_TYPES = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64,
    "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
}  # fmt: skip
_PACKED_TYPES = frozenset({torch.float8_e4m3fn, torch.float8_e5m2, torch.int8})


class TensorFile(Protocol):
    """A weight file that is open."""

    def names(self) -> list[str]:
        """Returns the keys of its tensors; scales are no tensors of their own."""

    def get(self, key: str) -> Tensor | StoredWeight:
        """Returns a tensor as it is in the file; a packed matrix or kernel, or one with a scale, as a stored weight."""


@contextmanager
def open_tensors(file: FileId) -> Iterator[TensorFile]:
    """Yields the tensors of a file. Raises HeaderError if it is not the one that was opened before."""
    if not file.is_current():
        raise HeaderError(file.path, "a changed file", expected="it as it was opened", cure="Open it again.")
    with file.path.open("rb") as opened:
        is_gguf = opened.read(len(MAGIC)) == MAGIC
    if is_gguf:
        yield _GgufFile(read_header(file.path))
        return
    with safe_open(file.path, framework="pt", device="cpu") as handle:
        yield _SafetensorsFile(handle)


class _SafetensorsFile:
    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._keys = frozenset(handle.keys())

    def names(self) -> list[str]:
        return [key for key in self._keys if not is_companion(key)]

    def get(self, key: str) -> Tensor | StoredWeight:
        tensor: Tensor = self._handle.get_tensor(key)
        scale = None
        if (name := scale_of(key, self._keys)) is not None:
            values = self._handle.get_tensor(name).float()
            scale = values.item() if values.numel() == 1 else values.reshape(-1)
        if scale is None and (tensor.dtype not in _PACKED_TYPES or tensor.ndim < 2):
            return tensor
        return StoredWeight(tensor, tuple(tensor.shape), scale)


class _GgufFile:
    def __init__(self, header: Header) -> None:
        self._header = header
        with header.path.open("rb") as file:  # copied where it is written to, which it never is
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def names(self) -> list[str]:
        return list(self._header.tensors)

    def get(self, key: str) -> Tensor | StoredWeight:
        info = self._header.tensors[key]
        if not info.numel:
            return torch.empty(info.shape)
        start = self._header.data_start + info.begin
        data = torch.frombuffer(self._data, dtype=torch.uint8, offset=start, count=info.end - info.begin)
        if info.dtype in BLOCKS:
            return StoredWeight(data, info.shape, blocks=info.dtype)
        return data.view(_GGUF_TYPES[info.dtype]).reshape(info.shape)
