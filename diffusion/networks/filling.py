"""How the weights of a part of a file come into a network: each tensor found, checked, converted once and assigned.

The network is built on the meta device, so its weights exist once: each tensor is read from the mapped file, copied in the
wanted format to the wanted device, and assigned. It does not lean on the file afterwards. Packed weights stay packed, and what
a device has no room for stays on the host; see `stored`.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.completeness import FindOrigins, bare
from ..checkpoints.headers import HeaderError
from ..checkpoints.parts import Part
from ..layouts.keymaps import KeyMapError, Origin
from .reading import TensorFile, open_tensors
from .stored import StoredWeight, can_store, store

HOST = torch.device("cpu")


class Room:
    """How many bytes of a device are left for weights."""

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, size: int) -> bool:
        """Takes so many bytes if they fit, and returns whether they did."""
        fits = size <= self._left
        self._left -= size if fits else 0
        return fits

    def reserve(self, size: int) -> None:
        """Takes bytes that something needs in any case."""
        self._left -= size


@dataclass(frozen=True, slots=True)
class Conversion:
    """What becomes of each tensor on its way from the file.

    unrounded: names, or parts of them, that rounding leaves alone. rounds_narrow: whether it also rounds what is in a format of
    two bytes or less, such as bfloat16. kept: names of tensors that stay in float32. room: what the device has for them, None
    for all that is needed. widen: packed weights are widened at once instead of where they are used.
    """

    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format = torch.contiguous_format
    rounding: torch.dtype | None = None
    unrounded: tuple[str, ...] = ()
    rounds_narrow: bool = True
    kept: tuple[str, ...] = ()
    room: Room | None = None
    widen: bool = False

    def place(self, network: nn.Module, name: str, weight: Tensor | StoredWeight) -> Tensor | None:
        """Returns a tensor to assign, converted; None for a weight that the module now has as it is stored."""
        module = network.get_submodule(name.rpartition(".")[0])
        may_store = self._may_store(network, name)
        if isinstance(weight, StoredWeight):
            if may_store and not self.widen and weight.nbytes < prod(weight.shape) * self.dtype.itemsize:
                device = self.device if self._has_room(weight.nbytes) else HOST
                self._store(module, weight.copied(device, self.memory_format))
                return None
            weight = weight.widened(torch.float32)
        dtype = torch.float32 if name in self.kept else self.dtype
        if not may_store or self._has_room(weight.numel() * dtype.itemsize):
            return self._converted(name, weight, dtype, self.device)
        tensor = self._converted(name, weight, dtype, HOST)
        self._store(module, StoredWeight(tensor, tuple(tensor.shape)))
        return None

    def reserve(self, network: nn.Module) -> None:
        """Sets room aside for what can't be on the host: all but the weights of matrices, kernels and tables."""
        if self.room is not None:
            for name, tensor in network.state_dict().items():
                if not self._may_store(network, name):
                    self.room.reserve(tensor.numel() * (4 if name in self.kept else self.dtype.itemsize))

    def _may_store(self, network: nn.Module, name: str) -> bool:
        path, _, leaf = name.rpartition(".")
        return leaf == "weight" and can_store(network.get_submodule(path)) and name not in self.kept

    def _has_room(self, size: int) -> bool:
        return self.room is None or self.room.take(size)

    def _converted(self, name: str, tensor: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
        rounds = self.rounds_narrow or tensor.dtype.itemsize > 2
        if self.rounding is not None and rounds and not any(part in name for part in self.unrounded):
            tensor = tensor.to(self.rounding)
        memory_format = self.memory_format if tensor.ndim == 4 else torch.contiguous_format
        return tensor.to(device, dtype, copy=True, memory_format=memory_format)

    def _store(self, module: Any, weight: StoredWeight) -> None:
        if (
            self.device.type == "cuda" and weight.data.device == HOST
        ):  # pages that stay in place are copied at full speed
            weight = replace(weight, data=weight.data.pin_memory())
        store(module, weight, dtype=self.dtype, device=self.device)


def fill(
    network: nn.Module,
    part: Part,
    find_origins: FindOrigins,
    convert: Conversion,
) -> None:
    """Assigns the part's tensors to the network. Raises HeaderError if they are not exactly the network's."""
    convert.reserve(network)
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    first = part.files[0].path
    with ExitStack() as stack:
        holders: dict[str, TensorFile] = {}
        for file in part.files:
            opened = stack.enter_context(open_tensors(file))
            holders |= {key[len(part.prefix) :]: opened for key in opened.names() if key.startswith(part.prefix)}
        try:
            origins = find_origins(wanted.keys(), holders.keys())
        except KeyMapError as error:
            raise HeaderError(first, str(error), expected="each of its tensors once", cure="Get it again.") from None
        state = {}
        for name in sorted(wanted, key=lambda name: holders[origins[name].key].begin(part.prefix + origins[name].key)):
            origin, shape = origins[name], wanted[name]
            holder, key = holders[origin.key], part.prefix + origin.key
            weight = _pick(holder.get(key), origin)
            if bare(weight.shape) != bare(shape):
                found = f"{part.prefix}{origin.key} with the shape {list(weight.shape)}"
                raise HeaderError(first, found, expected=f"{list(shape)} for {name}", cure="Get the file again.")
            placed = convert.place(network, name, weight.reshape(shape))
            if placed is not None:
                state[name] = placed
            holder.release(key)
    network.load_state_dict(state, strict=True, assign=True)
    network.requires_grad_(False).eval()


def _pick(weight: Tensor | StoredWeight, origin: Origin) -> Tensor | StoredWeight:
    """Returns what an origin takes of a tensor; a packed one stays so where only whole rows are taken."""
    is_whole = origin.third is None and origin.rows is None
    if isinstance(weight, StoredWeight):
        if not origin.transposed:
            return weight if is_whole else weight.rows(partial(_rows, origin=origin))
        weight = weight.widened(torch.float32)
    picked = weight if is_whole else _rows(weight, origin)
    return picked.T if origin.transposed else picked


def _rows(tensor: Tensor, origin: Origin) -> Tensor:
    if origin.third is not None:
        return tensor.chunk(3)[origin.third]
    parts = [tensor[start:stop] for start, stop in origin.rows or ()]
    return torch.cat(parts) if len(parts) > 1 else parts[0]
