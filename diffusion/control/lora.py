"""Control LoRAs: ControlNets that are the encoder of the UNet that they steer, with low-rank products added.

What a control LoRA's file does not touch is the UNet's own tensor, so that a run holds it once.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.headers import HeaderError, read_header
from ..checkpoints.parts import Part, find_shapes
from ..networks.attention import ExactUNetAttention
from ..networks.precision import NumericPolicy
from ..networks.reading import TensorFile, open_tensors
from ..networks.stored import StoredWeight
from ..networks.weight_source import WeightSource, file_names
from .keymaps import original_keys
from .networks import Controller, ControlNetController, build_control_net
from .unet_reading import whole_shapes
from .unet_specs import ControlNetSpec


@dataclass(frozen=True, slots=True)
class ControlLoraSource:
    """The control LoRA in a part of a file. base: the UNet that it is laid on; None: not chosen yet."""

    spec: ControlNetSpec
    part: Part
    base: WeightSource | None = None

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"the control LoRA of {file_names(self.part)}"

    @property
    def ingredients(self) -> tuple[WeightSource, ...]:
        """The UNet that it is laid on."""
        return () if self.base is None else (self.base,)

    def on(self, base: WeightSource) -> ControlLoraSource:
        """Returns the network that it makes of a UNet."""
        return replace(self, base=base)

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes of the tensors that are its own, without loading it."""
        headers = [read_header(file.path) for file in self.part.files]
        shapes = whole_shapes(find_shapes(headers, self.part.prefix))
        return sum(map(prod, shapes.values())) * policy.unet.itemsize

    def load(self, policy: NumericPolicy, *ingredients: Any) -> Controller:
        """Returns diffusers' ControlNet with the sums, as a controller. Raises HeaderError for a file that is not whole."""
        (unet,) = ingredients
        network = build_control_net(self.spec)
        state = {}
        with ExitStack() as stack:
            files = self._opened(stack)
            for name, key in original_keys(self.spec, network.state_dict()):
                state[name] = self._tensor(files, unet, name, key, policy)
        network.load_state_dict(state, strict=True, assign=True)
        network.requires_grad_(False).eval()
        if policy.attention == "exact":
            network.set_attn_processor(ExactUNetAttention())
        return ControlNetController(network, pooled=self.spec.pooled)

    def _opened(self, stack: ExitStack) -> dict[str, TensorFile]:
        """Returns the file that holds each tensor, by key without prefix."""
        prefix = self.part.prefix
        opened = [stack.enter_context(open_tensors(file)) for file in self.part.files]
        return {key[len(prefix) :]: file for file in opened for key in file.names() if key.startswith(prefix)}

    def _tensor(self, files: Mapping[str, TensorFile], unet: Any, name: str, key: str, policy: NumericPolicy) -> Tensor:
        """Returns a tensor that diffusers calls `name` and the original layout `key`."""

        def read(key: str) -> Tensor:
            weight = files[key].get(self.part.prefix + key)
            return weight.widened(torch.float32) if isinstance(weight, StoredWeight) else weight.float()

        if key in files:
            return _converted(read(key), policy)
        base = _tensor_of(unet, name)
        if base is None:
            first = self.part.files[0].path
            raise HeaderError(first, f"no {key!r}", expected="a whole control LoRA", cure="Get it again.")
        up, down = (f"{key.removesuffix('.weight')}.{factor}" for factor in ("up", "down"))
        if up not in files or down not in files:
            return base
        product = read(up).flatten(1) @ read(down).flatten(1)
        return _converted(base.float() + product.reshape(base.shape).to(base.device), policy)


def _tensor_of(unet: Any, name: str) -> Tensor | None:
    """Returns a UNet's tensor, widened if it is stored otherwise, or None if it has none of the name."""
    path, _, leaf = name.rpartition(".")
    try:
        tensor: Tensor | None = getattr(unet.get_submodule(path), leaf)
    except AttributeError:
        return None
    return tensor


def _converted(tensor: Tensor, policy: NumericPolicy) -> Tensor:
    memory_format = policy.memory_format if tensor.ndim == 4 else torch.contiguous_format
    return tensor.to(policy.device, policy.unet, copy=True, memory_format=memory_format)
