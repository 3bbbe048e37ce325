"""How the values that nodes exchange are measured, copied and written down for the caches.

A value is a frozen dataclass of `diffusion.types` with tensors in it, or a tensor. A handle on weights (Model, Clip, Vae
and so on), or what holds one (Guider), has no meaning in another process, so it is never written down.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from latentgraph.diffusion.types import (
    Area,
    ClipVisionOutput,
    Condition,
    Conditioning,
    Control,
    Image,
    Latent,
    Mask,
    Noise,
    PicturePrompt,
    PictureSize,
    Sampler,
    Sigmas,
)
from latentgraph.graph import Buffer, Packed

if TYPE_CHECKING:
    from torch import Tensor

_TYPES = (
    Image,
    Mask,
    Latent,
    Conditioning,
    Condition,
    Area,
    PictureSize,
    PicturePrompt,
    ClipVisionOutput,
    Sigmas,
    Noise,
    Sampler,
)
_BY_NAME: Mapping[str, Any] = {cls.__name__: cls for cls in _TYPES}
_SMALL_BYTES = 64  # what a value without tensors counts as


class TensorCodec:
    """The ValueCodec for tensors and for the dataclasses of `diffusion.types`."""

    def nbytes(self, value: Any) -> int:
        """Returns the bytes of the tensors in a value."""
        return _SMALL_BYTES + sum(tensor.nbytes for tensor in _tensors(value))

    def copy(self, value: Any) -> Any:
        """Returns a value with tensors of its own; what holds none is returned as it is."""
        return _map_tensors(value, lambda tensor: tensor.clone())

    def pack(self, value: Any) -> Packed | None:
        """Returns the value as data and buffers, or None for a value that holds a handle or anything unknown."""
        buffers: dict[str, Buffer] = {}
        try:
            return Packed(_write(value, buffers), buffers)
        except _NotWritableError:
            return None

    def unpack(self, packed: Packed) -> Any:
        """Returns the value that `pack` wrote. Raises ValueError for anything else."""
        try:
            return _read(packed.data, packed.buffers)
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"a cached value can't be read: {error!r}") from error


class _NotWritableError(Exception):
    """A value holds something that has no meaning outside this process."""


def _tensors(value: Any) -> Iterator[Tensor]:
    import torch

    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, Control):
            pending.extend((item.hint, item.kept))
        elif isinstance(item, _TYPES):
            pending.extend(getattr(item, field.name) for field in dataclasses.fields(item))
        elif isinstance(item, list | tuple):
            pending.extend(item)


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Returns a value with every tensor changed. Values nest three deep: Conditioning, Condition, tensor.

    A control stays the very object that it is: conditions that share one share a pass.
    """
    import torch

    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, _TYPES):
        fields = {f.name: _map_tensors(getattr(value, f.name), change) for f in dataclasses.fields(value)}
        return type(value)(**fields)
    if isinstance(value, list | tuple):
        return type(value)(_map_tensors(item, change) for item in value)
    return value


def _write(value: Any, buffers: dict[str, Buffer]) -> Any:
    import torch

    if value is None or isinstance(value, bool | int | float | str):
        return {"plain": value}
    if isinstance(value, torch.Tensor):
        name = str(len(buffers))
        buffers[name] = _buffer(value)
        return {"tensor": name}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_write(item, buffers) for item in value]}
    if isinstance(value, _TYPES):
        fields = {f.name: _write(getattr(value, f.name), buffers) for f in dataclasses.fields(value)}
        return {type(value).__name__: fields}
    raise _NotWritableError


def _read(data: Mapping[str, Any], buffers: Mapping[str, Buffer]) -> Any:
    ((kind, body),) = data.items()
    if kind == "plain":
        return body
    if kind == "tensor":
        return _tensor(buffers[body])
    if kind in ("list", "tuple"):
        items = [_read(item, buffers) for item in body]
        return items if kind == "list" else tuple(items)
    return _BY_NAME[kind](**{name: _read(item, buffers) for name, item in body.items()})


def _dtypes() -> Mapping[str, Any]:
    """Returns torch's number formats by their safetensors names."""
    import torch

    return {
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F64": torch.float64,
        "U8": torch.uint8,
        "I64": torch.int64,
        "I32": torch.int32,
        "BOOL": torch.bool,
    }


def _buffer(tensor: Tensor) -> Buffer:
    import torch

    names = {dtype: name for name, dtype in _dtypes().items()}
    if tensor.dtype not in names:
        raise _NotWritableError
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return Buffer(names[tensor.dtype], tuple(tensor.shape), flat.view(torch.uint8).numpy().tobytes())


def _tensor(buffer: Buffer) -> Tensor:
    import torch

    dtype = _dtypes()[buffer.dtype]
    if not buffer.data:
        return torch.empty(buffer.shape, dtype=dtype)
    return torch.frombuffer(bytearray(buffer.data), dtype=dtype).reshape(buffer.shape)
