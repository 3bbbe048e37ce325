"""Control networks as `networks.memory` loads them, from a part of a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Protocol, runtime_checkable

from ..checkpoints.parts import Part
from ..networks.attention import ExactUNetAttention
from ..networks.filling import Conversion, fill
from ..networks.precision import NumericPolicy
from ..networks.weight_source import OnePart, WeightSource, file_names
from .keymaps import control_origins
from .lora import ControlLoraSource
from .networks import (
    Controller,
    ControlNetController,
    T2IAdapterController,
    UnionController,
    build_control_net,
    build_t2i_adapter,
)
from .specs import ControlSpec
from .transformer_specs import FluxControlSpec, SD3ControlSpec
from .transformers import FluxController, SD3Controller, build_flux_control, build_sd3_control
from .unet_specs import ControlNetSpec, T2IAdapterSpec


@runtime_checkable
class LeaningSource(Protocol):
    """A source of a control network that holds tensors of the network that it steers, and can be loaded once it is told it."""

    def on(self, base: WeightSource) -> WeightSource:
        """Returns the source of the control network that steers the network of `base`."""


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
        fill(network, self.part, partial(control_origins, self.spec), conversion)
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
        fill(network.adapter, self.part, partial(control_origins, self.spec), conversion)
        return T2IAdapterController(network.eval())


@dataclass(frozen=True, slots=True)
class FluxControlSource(OnePart):
    """The ControlNet for FLUX.1 in a part of a file."""

    spec: FluxControlSpec
    part: Part
    noun: ClassVar[str] = "ControlNet"

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes it takes when loaded."""
        return self.part.bytes(policy.transformer.itemsize)

    def load(self, policy: NumericPolicy) -> Controller:
        """Returns diffusers' ControlNet with these weights, as a controller."""
        network = build_flux_control(self.spec)
        conversion = Conversion(policy.device, policy.transformer)
        fill(network, self.part, partial(control_origins, self.spec), conversion)
        return FluxController(network, self.spec)


@dataclass(frozen=True, slots=True)
class SD3ControlSource:
    """The ControlNet for SD3 in a part of a file. base: the transformer that it leans on, if it does; None: not chosen yet."""

    spec: SD3ControlSpec
    part: Part
    base: WeightSource | None = None

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"the ControlNet of {file_names(self.part)}"

    @property
    def ingredients(self) -> tuple[WeightSource, ...]:
        """The transformer that it leans on."""
        return () if self.base is None else (self.base,)

    def on(self, base: WeightSource) -> SD3ControlSource:
        """Returns the source of the network that steers a transformer."""
        return replace(self, base=base) if self.spec.leans else self

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes of the tensors that are its own."""
        return self.part.bytes(policy.transformer.itemsize)

    def load(self, policy: NumericPolicy, *ingredients: Any) -> Controller:
        """Returns diffusers' ControlNet with these weights, as a controller."""
        network = build_sd3_control(self.spec)
        conversion = Conversion(policy.device, policy.transformer)
        fill(network, self.part, partial(control_origins, self.spec), conversion)
        return SD3Controller(network, self.spec, ingredients[0].pos_embed if self.spec.leans else None)


ControlSource = ControlNetSource | ControlLoraSource | T2IAdapterSource | FluxControlSource | SD3ControlSource


def source_of(spec: ControlSpec, part: Part) -> ControlSource:
    """Returns the source of a control network of this structure."""
    if isinstance(spec, ControlNetSpec):
        return ControlLoraSource(spec, part) if spec.lora else ControlNetSource(spec, part)
    if isinstance(spec, SD3ControlSpec):
        return SD3ControlSource(spec, part)
    if isinstance(spec, FluxControlSpec):
        return FluxControlSource(spec, part)
    assert isinstance(spec, T2IAdapterSpec), "every kind of control network has its source"
    return T2IAdapterSource(spec, part)
