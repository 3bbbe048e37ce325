"""Networks as `memory` loads them: what a part of a file holds, built by its spec and filled from there; see `filling`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from ..adapters.places import UNET
from ..checkpoints.parts import Part
from ..families.autoencoders import VaeSpec
from ..families.specs import DenoiserSpec
from ..families.text_joins import ClipSpec
from ..families.vision import ClipVisionSpec
from ..layouts.autoencoder_keys import vae_origins
from ..layouts.autoencoder_structure import CODEBOOK, STATISTICS
from ..layouts.kinds import kind_of
from ..layouts.text_keymaps import text_origins
from ..layouts.vision_keys import vision_origins
from .attention import ExactUNetAttention, use_exact_vae_attention
from .autoencoders import build_vae
from .building import build_denoiser, build_vision
from .filling import Conversion, Room, fill
from .precision import NumericPolicy
from .text_building import build_text_encoder, restore_buffers
from .weight_source import FromFiles, OnePart, file_names


@dataclass(frozen=True, slots=True)
class DenoiserSource(OnePart):
    """The denoising network in a part of a file."""

    spec: DenoiserSpec
    part: Part

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"the {kind_of(self.spec).title} of {file_names(self.part)}"

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes it takes when loaded."""
        return self.part.bytes(policy.denoiser(self.spec.kind).itemsize)

    @property
    def packed_networks(self) -> frozenset[str]:
        """The network, by the name that adapters' targets have for it, if the file has it packed."""
        return frozenset({UNET} if self.part.packed_values else ())

    def load(self, policy: NumericPolicy) -> nn.Module:
        """Returns diffusers' network of the spec's kind with these weights."""
        return self._loaded(policy, None)

    def least(self, policy: NumericPolicy) -> int:
        """None: all of it may be on the host."""
        return 0

    def load_within(self, policy: NumericPolicy, room_bytes: int) -> nn.Module:
        """Returns the network with at most so many bytes on the device; the rest stays on the host and is fetched when used."""
        return self._loaded(policy, Room(room_bytes))

    def _loaded(self, policy: NumericPolicy, room: Room | None) -> nn.Module:
        network = build_denoiser(self.spec)
        dtype = policy.denoiser(self.spec.kind)
        convert = Conversion(policy.device, dtype, memory_format=policy.memory_format, room=room)
        fill(network, self.part, partial(kind_of(self.spec).origins, self.spec), convert)
        if policy.attention == "exact" and isinstance(network, UNet2DConditionModel):
            network.set_attn_processor(ExactUNetAttention())
        return network


@dataclass(frozen=True, slots=True)
class VaeSource(FromFiles):
    """An autoencoder: one part for each of the spec's modules."""

    spec: VaeSpec
    parts: tuple[Part, ...]

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"the VAE of {file_names(*self.parts)}"

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes it takes when loaded."""
        return sum(part.values for part in self.parts) * policy.vae.itemsize

    def load(self, policy: NumericPolicy) -> nn.Module:
        """Returns diffusers' autoencoder of the spec's kind with these weights; a codebook and statistics stay in float32."""
        network = build_vae(self.spec)
        kept = (CODEBOOK, *STATISTICS)
        conversion = Conversion(policy.device, policy.vae, memory_format=policy.memory_format, kept=kept, widen=True)
        for name, part in zip(self.spec.modules, self.parts, strict=True):
            find_origins = partial(vae_origins, self.spec, name)
            fill(network.get_submodule(name), part, find_origins, conversion)
        _move_buffers(network, policy.device, policy.vae)
        if policy.attention == "exact":
            use_exact_vae_attention(network)
        return network.eval()


@dataclass(frozen=True, slots=True)
class TextSource(FromFiles):
    """The text encoders of a model: one part for each encoder of the spec."""

    spec: ClipSpec
    parts: tuple[Part, ...]

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"the text encoder of {file_names(*self.parts)}"

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes they take when loaded."""
        pairs = zip(self.spec.encoders, self.parts, strict=True)
        return sum(part.bytes(policy.text_format(spec.kind).itemsize) for spec, part in pairs)

    @property
    def packed_networks(self) -> frozenset[str]:
        """The keys of the encoders that the files have packed."""
        pairs = zip(self.spec.encoders, self.parts, strict=True)
        return frozenset(encoder.key for encoder, part in pairs if part.packed_values)

    def load(self, policy: NumericPolicy) -> dict[str, nn.Module]:
        """Returns text encoders of transformers and diffusers with these weights, by the encoder's key."""
        return self._loaded(policy, None)

    def least(self, policy: NumericPolicy) -> int:
        """None: all of them may be on the host."""
        return 0

    def load_within(self, policy: NumericPolicy, room_bytes: int) -> dict[str, nn.Module]:
        """Returns the networks with at most so many bytes on the device; see `DenoiserSource.load_within`."""
        return self._loaded(policy, Room(room_bytes))

    def _loaded(self, policy: NumericPolicy, room: Room | None) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {}
        for spec, part in zip(self.spec.encoders, self.parts, strict=True):
            network = build_text_encoder(spec, exact=policy.attention == "exact")
            conversion = Conversion(
                policy.device,
                policy.text_format(spec.kind),
                rounding=policy.text_rounding,
                rounds_narrow=spec.kind == "clip",
                room=room,
            )
            fill(network, part, partial(text_origins, spec), conversion)
            restore_buffers(network, policy.device)
            networks[spec.key] = network
        return networks


@dataclass(frozen=True, slots=True)
class VisionSource(OnePart):
    """The vision tower in a part of a file."""

    spec: ClipVisionSpec
    part: Part
    noun: ClassVar[str] = "vision model"

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes it takes when loaded."""
        return self.part.bytes(policy.text.itemsize)

    def load(self, policy: NumericPolicy) -> nn.Module:
        """Returns transformers' CLIPVisionModelWithProjection or SiglipVisionModel with these weights."""
        network = build_vision(self.spec, attention="eager" if policy.attention == "exact" else "sdpa")
        conversion = Conversion(policy.device, policy.text, rounding=policy.text_rounding, unrounded=_VISION_UNROUNDED)
        fill(network, self.part, vision_origins, conversion)
        restore_buffers(network, policy.device)
        return network


_VISION_UNROUNDED = ("pre_layrnorm.", "post_layernorm.", "visual_projection.")  # as in ComfyUI 0.8.0 (behaviour)


def _move_buffers(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Brings what an autoencoder knows by itself, and no file holds, to where its weights are."""
    from_file = network.state_dict().keys()
    for path, module in network.named_modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if f"{path}.{name}".removeprefix(".") not in from_file:
                module.register_buffer(name, buffer.to(device, dtype), persistent=False)
