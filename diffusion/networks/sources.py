"""Networks as `memory` loads them: what a part of a file holds, and how its weights come into a network.

A network is built on the meta device, so its weights exist once: each tensor is read from the mapped file, copied in the
policy's format to the policy's device, and assigned. It does not lean on the file afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ..adapters.files import UNET
from ..checkpoints.autoencoder_keys import vae_origins
from ..checkpoints.autoencoder_structure import CODEBOOK
from ..checkpoints.autoencoders import VaeSpec
from ..checkpoints.families import DenoiserSpec
from ..checkpoints.headers import HeaderError
from ..checkpoints.keymaps import KeyMapError, Origin, Origins
from ..checkpoints.kinds import kind_of
from ..checkpoints.parts import Part
from ..checkpoints.text_keymaps import text_origins
from ..checkpoints.text_specs import ClipSpec
from ..checkpoints.vision import ClipVisionSpec, vision_origins
from .attention import ExactUNetAttention, use_exact_vae_attention
from .autoencoders import build_vae
from .building import build_denoiser, build_vision
from .precision import NumericPolicy
from .reading import TensorFile, open_tensors
from .stored import StoredWeight, can_store, store
from .text_building import build_text_encoder


@dataclass(frozen=True, slots=True)
class DenoiserSource:
    """The denoising network in a part of a file."""

    spec: DenoiserSpec
    part: Part

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"the {kind_of(self.spec).title} of {_names(self.part)}"

    @property
    def ingredients(self) -> tuple[()]:
        """None: it is read from files."""
        return ()

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes it takes when loaded."""
        return self.part.bytes(policy.denoiser(self.spec.kind).itemsize)

    @property
    def packed_networks(self) -> frozenset[str]:
        """The network, by the name that adapters' targets have for it, if the file has it packed."""
        return frozenset({UNET} if self.part.packed_values else ())

    def load(self, policy: NumericPolicy) -> nn.Module:
        """Returns diffusers' network of the spec's kind with these weights."""
        network = build_denoiser(self.spec)
        _fill(
            network,
            self.part,
            partial(kind_of(self.spec).origins, self.spec),
            _Conversion(policy.device, policy.denoiser(self.spec.kind), memory_format=policy.memory_format),
        )
        if policy.attention == "exact" and isinstance(network, UNet2DConditionModel):
            network.set_attn_processor(ExactUNetAttention())
        return network


@dataclass(frozen=True, slots=True)
class VaeSource:
    """An autoencoder: one part for each of the spec's modules."""

    spec: VaeSpec
    parts: tuple[Part, ...]

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"the VAE of {_names(*self.parts)}"

    @property
    def ingredients(self) -> tuple[()]:
        """None: it is read from files."""
        return ()

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes it takes when loaded."""
        return sum(part.values for part in self.parts) * policy.vae.itemsize

    def load(self, policy: NumericPolicy) -> nn.Module:
        """Returns diffusers' autoencoder of the spec's kind with these weights; a codebook stays in float32."""
        network = build_vae(self.spec)
        conversion = _Conversion(policy.device, policy.vae, memory_format=policy.memory_format, kept=(CODEBOOK,))
        for name, part in zip(self.spec.modules, self.parts, strict=True):
            find_origins = partial(vae_origins, self.spec, name)
            _fill(network.get_submodule(name), part, find_origins, conversion, keep_stored=False)
        _move_buffers(network, policy.device, policy.vae)
        if policy.attention == "exact":
            use_exact_vae_attention(network)
        return network.eval()


@dataclass(frozen=True, slots=True)
class TextSource:
    """The text encoders of a model: one part for each encoder of the spec."""

    spec: ClipSpec
    parts: tuple[Part, ...]

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"the text encoder of {_names(*self.parts)}"

    @property
    def ingredients(self) -> tuple[()]:
        """None: it is read from files."""
        return ()

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
        networks: dict[str, nn.Module] = {}
        for spec, part in zip(self.spec.encoders, self.parts, strict=True):
            network = build_text_encoder(spec, exact=policy.attention == "exact")
            conversion = _Conversion(
                policy.device,
                policy.text_format(spec.kind),
                rounding=policy.text_rounding,
                rounds_narrow=spec.kind == "clip",
            )
            _fill(network, part, partial(text_origins, spec), conversion)
            _restore_positions(network, spec.framing.least, policy.device)
            networks[spec.key] = network
        return networks


@dataclass(frozen=True, slots=True)
class VisionSource:
    """The vision tower in a part of a file."""

    spec: ClipVisionSpec
    part: Part

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"the vision model of {_names(self.part)}"

    @property
    def ingredients(self) -> tuple[()]:
        """None: it is read from files."""
        return ()

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes it takes when loaded."""
        return self.part.bytes(policy.text.itemsize)

    def load(self, policy: NumericPolicy) -> nn.Module:
        """Returns transformers' CLIPVisionModelWithProjection or SiglipVisionModel with these weights."""
        network = build_vision(self.spec, attention="eager" if policy.attention == "exact" else "sdpa")
        conversion = _Conversion(policy.device, policy.text, rounding=policy.text_rounding, unrounded=_VISION_UNROUNDED)
        _fill(network, self.part, vision_origins, conversion)
        _restore_positions(network, self.spec.tokens, policy.device)
        return network


_VISION_UNROUNDED = ("pre_layrnorm.", "post_layernorm.", "visual_projection.")  # as in ComfyUI 0.8.0 (behaviour)


@dataclass(frozen=True, slots=True)
class _Conversion:
    """What becomes of each tensor on its way from the file.

    unrounded: names, or parts of them, that rounding leaves alone. rounds_narrow: whether it also rounds what is in a format of
    two bytes or less, such as bfloat16. kept: names of tensors that stay in float32.
    """

    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format = torch.contiguous_format
    rounding: torch.dtype | None = None
    unrounded: tuple[str, ...] = ()
    rounds_narrow: bool = True
    kept: tuple[str, ...] = ()

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        wide = tensor.dtype.itemsize > 2
        if (
            self.rounding is not None
            and (wide or self.rounds_narrow)
            and not any(part in name for part in self.unrounded)
        ):
            tensor = tensor.to(self.rounding)
        dtype = torch.float32 if name in self.kept else self.dtype
        memory_format = self.memory_format if tensor.ndim == 4 else torch.contiguous_format
        return tensor.to(self.device, dtype, copy=True, memory_format=memory_format)

    def store(self, network: nn.Module, name: str, weight: StoredWeight) -> bool:
        """Keeps a weight in its module as it is stored; returns whether that is possible and saves memory."""
        path, _, leaf = name.rpartition(".")
        module = network.get_submodule(path)
        if leaf != "weight" or not can_store(module) or weight.nbytes >= prod(weight.shape) * self.dtype.itemsize:
            return False
        store(module, weight.copied(self.device, self.memory_format), dtype=self.dtype, device=self.device)
        return True


def _fill(
    network: nn.Module,
    part: Part,
    find_origins: Callable[[Collection[str], Collection[str]], Origins],
    convert: _Conversion,
    *,
    keep_stored: bool = True,
) -> None:
    """Assigns the part's tensors to the network. Raises HeaderError if they are not exactly the network's.

    keep_stored: packed weights stay as they are in memory and are widened where they are used.
    """
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
        for name, shape in wanted.items():
            origin = origins[name]
            weight = _pick(holders[origin.key].get(part.prefix + origin.key), origin)
            if _bare(weight.shape) != _bare(shape):
                found = f"{part.prefix}{origin.key} with the shape {list(weight.shape)}"
                raise HeaderError(first, found, expected=f"{list(shape)} for {name}", cure="Get the file again.")
            if not isinstance(weight, StoredWeight):
                state[name] = convert(name, weight.reshape(shape))
            elif not (keep_stored and convert.store(network, name, weight.reshaped(shape))):
                state[name] = convert(name, weight.widened(torch.float32).reshape(shape))
    network.load_state_dict(state, strict=True, assign=True)
    network.requires_grad_(False).eval()


def _pick(weight: Tensor | StoredWeight, origin: Origin) -> Tensor | StoredWeight:
    """Returns what an origin takes of a tensor; a packed one stays so where only whole rows are taken."""
    if isinstance(weight, StoredWeight):
        if not origin.transposed:
            return (
                weight if origin.third is None and origin.rows is None else weight.rows(partial(_rows, origin=origin))
            )
        weight = weight.widened(torch.float32)
    picked = _rows(weight, origin)
    return picked.T if origin.transposed else picked


def _rows(tensor: Tensor, origin: Origin) -> Tensor:
    if origin.third is not None:
        return tensor.chunk(3)[origin.third]
    if origin.rows is None:
        return tensor
    parts = [tensor[start:stop] for start, stop in origin.rows]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _bare(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns a shape but for ones at its end: a 1x1 convolution's weight is a matrix."""
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def _move_buffers(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Brings what an autoencoder knows by itself, and no file holds, to where its weights are."""
    for module in network.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, buffer.to(device, dtype), persistent=False)


def _restore_positions(network: nn.Module, positions: int, device: torch.device) -> None:
    """Gives a model of transformers the buffer 0, 1, 2, ..., which no file holds and the meta device left empty."""
    for module in network.modules():
        if "position_ids" in dict(module.named_buffers(recurse=False)):
            module.register_buffer("position_ids", torch.arange(positions, device=device)[None], persistent=False)


def _names(*parts: Part) -> str:
    return ", ".join(dict.fromkeys(file.path.name for part in parts for file in part.files))
