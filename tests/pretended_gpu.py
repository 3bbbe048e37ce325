"""A plugin for pytest: networks live on a device that is not there, so that tensors of two devices are found without a GPU.

    PYTHONPATH=tests pytest -p pretended_gpu tests/nodes

Tensors of that device say that they are on "gpu", are computed by the CPU, and refuse to meet tensors of the CPU, as those of a
real GPU do. Numbers of no dimension may, as there. How fast anything is, and what a GPU's kernels round, is not pretended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from latentgraph.diffusion.networks.memory import WeightMemory

NAME = "gpu"
CPU, GPU = torch.device("cpu"), f"{NAME}:0"
MOVING = {"aten::_to_copy", "aten::to", "aten::copy_", "aten::type_as", "aten::_has_compatible_shallow_copy_type"}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
GIBIBYTE = 2**30

_setup_privateuseone_for_python_backend(NAME)  # type: ignore[no-untyped-call]


class OnGpu(Tensor):
    """A tensor that says it is on the device. held: what it is, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        with torch.inference_mode(mode=False):
            made: OnGpu = Tensor._make_wrapper_subclass(
                cls,
                held.shape,
                strides=held.stride(),
                storage_offset=held.storage_offset(),
                dtype=held.dtype,
                layout=held.layout,
                device=GPU,
            )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGpu({self.held!r})"

    def __deepcopy__(self, memo: Any) -> OnGpu:
        return OnGpu(self.held.clone())


def _run(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Returns what an operation gives, on the device that it belongs to."""
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    on_gpu = [isinstance(tensor, OnGpu) for tensor in tensors]
    name = operation._schema.name
    if any(on_gpu) and name not in MOVING:
        met = tensors[:1] if name in INDEXING else tensors
        if any(tensor.ndim and not isinstance(tensor, OnGpu) for tensor in met):
            found = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in tensors)
            raise RuntimeError(f"{operation}: tensors of two devices meet: {found}")
    devices = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    if devices:
        stays = devices[0].type == NAME
    elif name in MOVING:
        stays = on_gpu[0] if name == "aten::copy_" else on_gpu[-1]
    else:
        stays = any(on_gpu)
    with torch.inference_mode(mode=False), torch.no_grad():
        result = operation(*tree_map(_on_cpu, args), **tree_map(_on_cpu, dict(kwargs)))
    known = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, OnGpu)}

    def placed(tensor: Tensor) -> Tensor:
        if id(tensor) in known:
            return known[id(tensor)] if stays else tensor.clone()
        return OnGpu(tensor) if stays else tensor

    return tree_map_only(Tensor, placed, result)


def _on_cpu(leaf: Any) -> Any:
    if isinstance(leaf, OnGpu):
        return leaf.held
    return CPU if isinstance(leaf, torch.device) and leaf.type == NAME else leaf


def _tensors(index: Any) -> Any:
    """Returns an index with its lists as tensors, which torch would make where it can't be seen."""
    if isinstance(index, tuple):
        return tuple(map(_tensors, index))
    return _tensor(index) if isinstance(index, list) else index


_library = torch.library.Library("_", "IMPL")  # type: ignore[no-untyped-call]
_library.fallback(lambda operation, *args, **kwargs: _run(operation, args, kwargs), "PrivateUse1")  # type: ignore[no-untyped-call]
_tensor, _get, _set, _init = torch.tensor, Tensor.__getitem__, Tensor.__setitem__, WeightMemory.__init__


def _tensor_on(data: Any, *, device: Any = None, **rest: Any) -> Tensor:
    made = _tensor(data, **rest)
    return made if device is None else made.to(device)


def _new_tensor(self: Tensor, data: Any, *, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
    return _tensor(data, dtype=dtype or self.dtype).to(device or self.device)


def _memory(self: WeightMemory, **given: Any) -> None:
    if torch.device(given.get("device", CPU)) == CPU:
        room: dict[str, Any] = {"budget_bytes": GIBIBYTE, "free_bytes": lambda _: GIBIBYTE, "offload": False}
        given = {**room, **given, "device": GPU}
    _init(self, **given)


torch.__future__.set_overwrite_module_params_on_conversion(True)
torch.tensor = _tensor_on  # type: ignore[assignment]
Tensor.new_tensor = _new_tensor  # type: ignore[assignment]
Tensor.__getitem__ = lambda self, index: _get(self, _tensors(index))  # type: ignore[method-assign]
Tensor.__setitem__ = lambda self, index, value: _set(self, _tensors(index), value)  # type: ignore[method-assign]
WeightMemory.__init__ = _memory  # type: ignore[method-assign]
