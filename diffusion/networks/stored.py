"""Weights that are kept otherwise than they are computed with: packed in few bits, or on another device.

Such a weight is widened where it is used, a layer at a time, so that the whole network is never in memory at its full size.
A module that holds one is diffusers' or torch's own with a property for its weight; what is laid on the weight (a LoRA) is
kept beside it and computed each time. Nothing here knows files or families.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..adapters.deltas import changed
from ..checkpoints.tensors import BLOCKS


@dataclass(frozen=True, eq=False, slots=True)
class StoredWeight:
    """A weight as it is stored. It is `data` times `scale`.

    data: numbers of any format, in the shape; or uint8 (bytes,) in the blocks of a format of GGUF, row after row.
    scale: a number, or float32 (rows,), one for each of the first side; None is 1. blocks: the format of the blocks, or None.
    """

    data: Tensor
    shape: tuple[int, ...]
    scale: float | Tensor | None = None
    blocks: str | None = None

    @property
    def nbytes(self) -> int:
        """The bytes that it takes."""
        return self.data.nbytes + (self.scale.nbytes if isinstance(self.scale, Tensor) else 0)

    def widened(self, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
        """Returns the weight in a number format, rounded once, on a device (by default where it is)."""
        data = self.data if device is None else self.data.to(device, non_blocking=True)
        if self.blocks is not None:
            data = _dequantised(data, self.blocks).reshape(self.shape)
        if self.scale is None:
            return data.to(dtype)
        if isinstance(self.scale, float):
            return data.to(dtype, copy=True).mul_(self.scale)  # torch multiplies halves with a scalar in float32
        rows = self.scale.to(data.device).reshape(-1, *[1] * (len(self.shape) - 1))
        return data.to(torch.float32, copy=True).mul_(rows).to(dtype)

    def rows(self, pick: Callable[[Tensor], Tensor]) -> StoredWeight:
        """Returns a weight of some of the rows. pick: from (rows, ...) to the ones wanted; it only moves rows."""
        count, *rest = self.shape
        if self.blocks is not None and prod(rest) % BLOCKS[self.blocks].values:
            raise ValueError(f"rows of {prod(rest)} numbers are no whole blocks of {self.blocks}")
        data = pick(self.data.reshape(count, -1))
        scale = pick(self.scale) if isinstance(self.scale, Tensor) else self.scale
        shape = (len(data), *rest)
        return replace(self, data=data.reshape(-1 if self.blocks else shape), shape=shape, scale=scale)

    def reshape(self, shape: Sequence[int]) -> StoredWeight:
        """Returns the same numbers in another shape of as many rows."""
        data = self.data if self.blocks is not None else self.data.reshape(*shape)
        return replace(self, data=data, shape=tuple(shape))

    def copied(self, device: torch.device, memory_format: torch.memory_format) -> StoredWeight:
        """Returns a copy on a device that leans on no file. memory_format: of a kernel that is not in blocks."""
        is_kernel = self.data.ndim == 4
        data = self.data.to(device, copy=True, memory_format=memory_format if is_kernel else torch.contiguous_format)
        scale = self.scale.to(device, copy=True) if isinstance(self.scale, Tensor) else self.scale
        return replace(self, data=data, scale=scale)


def can_store(module: nn.Module) -> bool:
    """Returns whether the weight of a module can be stored."""
    return type(module) in _KINDS


def device_of(module: nn.Module) -> torch.device:
    """Returns where a module computes; asking its weight would widen it."""
    return module.computed[1] if isinstance(module, StoredModule) else module.get_parameter("weight").device


def store(module: Any, weight: StoredWeight, *, dtype: torch.dtype, device: torch.device) -> None:
    """Changes a module (Linear, Conv2d or Embedding) so that its weight is a stored one.

    dtype, device: what the weight is computed in, and where.
    """
    del module._parameters["weight"]
    module.__class__ = _KINDS[type(module)]  # as torch.nn.utils.parametrize does it: all else is the module's own
    module.register_buffer("stored", weight.data, persistent=False)
    module.register_buffer("scales", weight.scale if isinstance(weight.scale, Tensor) else None, persistent=False)
    module.form = replace(weight, data=torch.empty(0), scale=None if module.scales is not None else weight.scale)
    module.computed = (dtype, device)
    module.laid_on = nn.ModuleList()
    module.rounding = None


def unstore(module: Any, weight: Tensor) -> None:
    """Changes a module with a stored weight back into one that has the given weight as its parameter."""
    module.__class__ = next(plain for plain, kind in _KINDS.items() if type(module) is kind)
    for name in ("stored", "scales"):
        del module._buffers[name]
    del module._modules["laid_on"], module.form, module.computed, module.rounding
    module.register_parameter("weight", nn.Parameter(weight, requires_grad=False))


def lay_on(module: Any, changes: Iterable[LaidOn], rounding: torch.dtype | None = None) -> None:
    """Changes a module so that adapters' changes are made to its weight whenever it is used; rounding: as of a new weight."""
    if not isinstance(module, StoredModule):
        weight = module.weight
        store(module, StoredWeight(weight.detach(), tuple(weight.shape)), dtype=weight.dtype, device=weight.device)
    module.laid_on.extend(changes)
    module.rounding = rounding


def stored_modules(network: nn.Module) -> Iterator[tuple[str, StoredModule]]:
    """Yields the modules whose weights are stored, by name."""
    for name, module in network.named_modules():
        if isinstance(module, StoredModule):
            yield name, module


class LaidOn(nn.Module):
    """An adapter's change to one weight; see `deltas.changed`."""

    def __init__(self, form: str, parts: Mapping[str, Tensor], strength: float) -> None:
        super().__init__()
        self.form, self.strength = form, strength
        for role, part in parts.items():
            self.register_buffer(role, part, persistent=False)

    def apply_to(self, weight: Tensor) -> Tensor:
        """Returns the weight, float32, as the adapter makes it."""
        parts = {role: part.to(weight) for role, part in self.named_buffers()}
        return changed(weight, self.form, parts, self.strength)


class StoredModule(nn.Module):
    """A module whose weight is widened whenever somebody asks for it."""

    form: StoredWeight
    computed: tuple[torch.dtype, torch.device]
    laid_on: nn.ModuleList
    rounding: torch.dtype | None
    stored: Tensor
    scales: Tensor | None

    @property
    def stored_weight(self) -> StoredWeight:
        """The weight as it is stored."""
        return replace(self.form, data=self.stored, scale=self.form.scale if self.scales is None else self.scales)

    @property
    def weight(self) -> Tensor:
        """The weight, in the format and on the device that it is computed in."""
        dtype, device = self.computed
        if not self.laid_on:
            return self.stored_weight.widened(dtype, device)
        return self.made().to(dtype)

    def made(self) -> Tensor:
        """Returns the weight with all that is laid on it, float32."""
        weight = self.stored_weight.widened(torch.float32, self.computed[1])
        for change in self.laid_on:
            assert isinstance(change, LaidOn)
            weight = change.apply_to(weight)
        return weight if self.rounding is None else weight.to(self.rounding).to(torch.float32)


class StoredLinear(StoredModule, nn.Linear):  # type: ignore[override]  # the weight is a property
    """A Linear with a stored weight."""


class StoredConv2d(StoredModule, nn.Conv2d):  # type: ignore[override]  # the weight is a property
    """A Conv2d with a stored weight."""


class StoredEmbedding(StoredModule, nn.Embedding):  # type: ignore[override]  # the weight is a property
    """An Embedding with a stored weight, of which only the rows that are looked up are widened."""

    def forward(self, input: Tensor) -> Tensor:
        if self.laid_on:
            return functional.embedding(input, self.weight)
        ids, places = torch.unique(input, return_inverse=True)
        rows = self.stored_weight.rows(lambda table: table[ids.to(table.device)])
        dtype, device = self.computed
        return rows.widened(dtype, device)[places]


_KINDS: Mapping[type[nn.Module], type[StoredModule]] = {
    nn.Linear: StoredLinear,
    nn.Conv2d: StoredConv2d,
    nn.Embedding: StoredEmbedding,
}


def _dequantised(data: Tensor, blocks: str) -> Tensor:
    """Returns the numbers of GGUF's blocks, float32, on the device where they are."""
    return _dequantisers()[blocks](
        data.view(-1, BLOCKS[blocks].size), BLOCKS[blocks].values, BLOCKS[blocks].size, torch.float32
    )


@cache
def _dequantisers() -> Mapping[str, Callable[[Tensor, int, int, torch.dtype], Tensor]]:
    """diffusers' functions, which compute with torch where the blocks are; those of the gguf package need numpy."""
    from diffusers.quantizers.gguf.utils import dequantize_functions

    return {kind.name: function for kind, function in dequantize_functions.items()}
