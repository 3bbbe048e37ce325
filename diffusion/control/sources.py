"""Control networks as `networks.memory` loads them, from a part of a file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from ..checkpoints.parts import Part
from ..networks.attention import ExactUNetAttention
from ..networks.filling import Conversion, fill
from ..networks.precision import NumericPolicy
from ..networks.weight_source import OnePart
from .keymaps import control_net_origins, diffusers_origins, t2i_adapter_origins
from .lora import ControlLoraSource
from .networks import (
    Controller,
    ControlNetController,
    T2IAdapterController,
    UnionController,
    build_control_net,
    build_t2i_adapter,
)
from .specs import ControlNetSpec, ControlSpec, T2IAdapterSpec, TransformerControlSpec
from .transformers import build_transformer_control, controller_of


@dataclass(frozen=True, slots=True)
class ControlNetSource(OnePart):
    """The ControlNet in a part of a file."""

    spec: ControlNetSpec
    part: Part
    noun: ClassVar[str] = "ControlNet"

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes it takes when loaded."""
        return self.part.bytes(policy.unet.itemsize)

    def load(self, policy: NumericPolicy) -> Controller:
        """Returns diffusers' ControlNet with these weights, as a controller."""
        network = build_control_net(self.spec)
        conversion = Conversion(policy.device, policy.unet, memory_format=policy.memory_format)
        fill(network, self.part, partial(control_net_origins, self.spec), conversion)
        if policy.attention == "exact":
            network.set_attn_processor(ExactUNetAttention())
        kind = ControlNetController if self.spec.union is None else UnionController
        return kind(network, pooled=self.spec.pooled)


@dataclass(frozen=True, slots=True)
class T2IAdapterSource(OnePart):
    """The T2I adapter in a part of a file."""

    spec: T2IAdapterSpec
    part: Part
    noun: ClassVar[str] = "T2I adapter"

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes it takes when loaded."""
        return self.part.bytes(policy.unet.itemsize)

    def load(self, policy: NumericPolicy) -> Controller:
        """Returns diffusers' T2I adapter with these weights, as a controller."""
        network = build_t2i_adapter(self.spec)
        conversion = Conversion(policy.device, policy.unet, memory_format=policy.memory_format)
        fill(network.adapter, self.part, partial(t2i_adapter_origins, self.spec), conversion)
        return T2IAdapterController(network.eval())


@dataclass(frozen=True, slots=True)
class TransformerControlSource(OnePart):
    """The ControlNet for a transformer in a part of a file."""

    spec: TransformerControlSpec
    part: Part
    noun: ClassVar[str] = "ControlNet"

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes it takes when loaded."""
        return self.part.bytes(policy.transformer.itemsize)

    def load(self, policy: NumericPolicy) -> Controller:
        """Returns diffusers' ControlNet with these weights, as a controller."""
        network = build_transformer_control(self.spec)
        fill(network, self.part, diffusers_origins, Conversion(policy.device, policy.transformer))
        return controller_of(network, self.spec)


ControlSource = ControlNetSource | ControlLoraSource | T2IAdapterSource | TransformerControlSource


def source_of(spec: ControlSpec, part: Part) -> ControlSource:
    """Returns the source of a control network of this structure."""
    if isinstance(spec, ControlNetSpec):
        return ControlLoraSource(spec, part) if spec.lora else ControlNetSource(spec, part)
    if isinstance(spec, TransformerControlSpec):
        return TransformerControlSource(spec, part)
    assert isinstance(spec, T2IAdapterSpec), "every kind of control network has its source"
    return T2IAdapterSource(spec, part)
