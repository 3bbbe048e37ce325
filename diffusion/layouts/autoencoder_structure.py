"""The structure of an autoencoder, read from the names and shapes of its tensors. Loads no torch and reads no file."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Literal, NamedTuple

from ..families.autoencoders import PATCH, ConsistencySpec, KLSpec, PatchedKLSpec, TinySpec, VaeSpec, VQSpec
from .structure import Shapes, StructureError, grid_of, shape_of

CODEBOOK = "quantize.embedding.weight"
STATISTICS = ("bn.running_mean", "bn.running_var")
CONSISTENCY_MARK = "decoder_unet.conv_in.weight"

_DOWN_BLOCKS = ("encoder.down.{}.block.{}.conv1.weight", "encoder.down_blocks.{}.resnets.{}.conv1.weight")
_UP_BLOCKS = ("decoder.up.{}.block.0.conv1.weight", "decoder.up_blocks.{}.resnets.0.conv1.weight")
_ATTENTIONS = (
    "encoder.down.{}.attn.0.norm.weight",
    "encoder.down_blocks.{}.attentions.0.group_norm.weight",
)
_MIDDLE_ATTENTIONS = ("encoder.mid.attn_1.norm.weight", "encoder.mid_block.attentions.0.group_norm.weight")


def read_vae(shapes: Shapes) -> VaeSpec:
    """Returns the structure of an autoencoder that is one network: of any kind but the tiny one. Raises StructureError."""
    if CONSISTENCY_MARK in shapes:
        return _read_consistency(shapes)
    if STATISTICS[0] in shapes:
        return _read_patched(shapes)
    return _read_vq(shapes) if CODEBOOK in shapes else _read_kl(shapes)


class _Levels(NamedTuple):
    """The levels of an LDM encoder, outermost first."""

    widths: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]
    middle_attention: bool


def _read_kl(shapes: Shapes) -> KLSpec:
    levels = _read_levels(shapes)
    return KLSpec(
        latent_channels=shape_of(shapes, "decoder.conv_in.weight", 4)[1],
        widths=levels.widths,
        encoder_blocks=levels.blocks,
        attention=levels.attention,
        middle_attention=levels.middle_attention,
        quant_convs="quant_conv.weight" in shapes,
        picture_channels=shape_of(shapes, "encoder.conv_in.weight", 4)[1],
    )


def _read_patched(shapes: Shapes) -> PatchedKLSpec:
    levels = _read_levels(shapes)
    channels = shape_of(shapes, "decoder.conv_in.weight", 4)[1] * PATCH**2
    if any(shape_of(shapes, name, 1) != (channels,) for name in STATISTICS):
        raise StructureError(f"its statistics are not those of {channels} channels")
    return PatchedKLSpec(
        latent_channels=channels,
        widths=levels.widths,
        decoder_widths=_decoder_widths(shapes, len(levels.widths)),
        encoder_blocks=levels.blocks,
        middle_attention=levels.middle_attention,
        quant_convs=any(name in shapes for name in ("quant_conv.weight", "encoder.quant_conv.weight")),
        picture_channels=shape_of(shapes, "encoder.conv_in.weight", 4)[1],
    )


def _decoder_widths(shapes: Shapes, levels: int) -> tuple[int, ...]:
    """Returns the widths of a decoder's levels, outermost first; diffusers counts them from within."""
    ldm, diffusers = _UP_BLOCKS
    names = [ldm.format(x) if ldm.format(x) in shapes else diffusers.format(levels - 1 - x) for x in range(levels)]
    return tuple(shape_of(shapes, name, 4)[0] for name in names)


def _read_vq(shapes: Shapes) -> VQSpec:
    levels = _read_levels(shapes)
    codes, width = shape_of(shapes, CODEBOOK, 2)
    return VQSpec(
        latent_channels=width,
        codes=codes,
        inner_channels=shape_of(shapes, "decoder.conv_in.weight", 4)[1],
        widths=levels.widths,
        encoder_blocks=levels.blocks,
        attention=levels.attention,
        middle_attention=levels.middle_attention,
        picture_channels=shape_of(shapes, "encoder.conv_in.weight", 4)[1],
    )


def _read_consistency(shapes: Shapes) -> ConsistencySpec:
    levels = _read_levels(shapes)
    grid = grid_of(shapes, "decoder_unet.down_blocks.{}.resnets.{}.conv1.weight")
    if not grid or len({len(level) for level in grid}) != 1:
        raise StructureError(f"the decoder's levels have {[len(level) for level in grid]} res blocks, not all the same")
    return ConsistencySpec(
        latent_channels=shape_of(shapes, "quant_conv.weight", 4)[0] // 2,
        encoder_widths=levels.widths,
        encoder_blocks=levels.blocks,
        decoder_widths=tuple(shape_of(shapes, level[0], 4)[0] for level in grid),
        decoder_blocks=len(grid[0]),
        times=shape_of(shapes, "decoder_unet.time_proj.weight", 2)[0],
        picture_channels=shape_of(shapes, "encoder.conv_in.weight", 4)[1],
    )


def _read_levels(shapes: Shapes) -> _Levels:
    grid = next((grid for block in _DOWN_BLOCKS if (grid := grid_of(shapes, block))), [])
    if not grid or len({len(level) for level in grid}) != 1:
        raise StructureError(f"the encoder's levels have {[len(level) for level in grid]} res blocks, not all the same")
    attention = tuple(any(name.format(x) in shapes for name in _ATTENTIONS) for x in range(len(grid)))
    return _Levels(
        widths=tuple(shape_of(shapes, level[-1], 4)[0] for level in grid),
        blocks=len(grid[0]),
        attention=attention if any(attention) else (),
        middle_attention=any(name in shapes for name in _MIDDLE_ATTENTIONS),
    )


class TinyLayout(NamedTuple):
    """Below which prefixes a file keeps the two halves of a tiny autoencoder. An empty one: it has a file to itself."""

    decoder: str
    encoder: str


TINY_LAYOUTS = (
    TinyLayout("decoder.layers.", "encoder.layers."),  # diffusers' AutoencoderTiny
    TinyLayout("taesd_decoder.", "taesd_encoder."),  # both halves in one file, as ComfyUI saves them
    TinyLayout("", ""),  # TAESD's own files
)

FIRST_DECODER_BLOCKS = (
    "2.conv.0.weight",
    "3.conv.0.weight",
)  # without and with the clamp before it, which has no weight
FIRST_ENCODER_BLOCK = "1.conv.0.weight"


def has_tiny_half(keys: Collection[str], prefix: str, half: Literal["decoder", "encoder"]) -> bool:
    """Returns whether there is a half of a tiny autoencoder below a prefix."""
    if half == "encoder":
        return prefix + FIRST_ENCODER_BLOCK in keys
    return prefix + FIRST_ENCODER_BLOCK not in keys and any(prefix + block in keys for block in FIRST_DECODER_BLOCKS)


def read_tiny(decoder: Shapes, encoder: Shapes | None, *, scale: float, shift: float) -> TinySpec:
    """Returns the structure of a tiny autoencoder from the shapes of its halves. Raises StructureError."""
    down = None if encoder is None else _read_stages(encoder)
    up = _read_stages(decoder)
    latent, picture = up.first[1], up.last[0]
    if down is not None and (down.last[0], down.first[1], down.width) != (latent, picture, up.width):
        raise StructureError(
            f"its encoder makes {down.last[0]} channels of {down.first[1]} by {down.width}, its decoder {picture} of "
            f"{latent} by {up.width}; they are not halves of one autoencoder"
        )
    return TinySpec(
        latent_channels=latent,
        width=up.width,
        decoder_blocks=up.blocks,
        encoder_blocks=None if down is None else down.blocks,
        scale=scale,
        shift=shift,
        picture_channels=picture,
    )


class _Stages(NamedTuple):
    """A sequence of stages, each a convolution and its blocks, and a last convolution. first, last: shapes of weights."""

    first: tuple[int, ...]
    last: tuple[int, ...]
    blocks: tuple[int, ...]

    @property
    def width(self) -> int:
        return self.first[0]


def _read_stages(shapes: Shapes) -> _Stages:
    numbers = sorted({int(key.split(".")[0]) for key in shapes if key.split(".")[0].isdecimal()})
    convolutions = [n for n in numbers if f"{n}.weight" in shapes]
    blocks = [n for n in numbers if f"{n}.conv.0.weight" in shapes]
    if any(".pool." in key for key in shapes):
        raise StructureError(
            "its blocks pool, as those of FLUX.2's (taef2) do, which is not supported; use the VAE itself"
        )
    if len(convolutions) < 2 or not blocks:
        raise StructureError("a half of a tiny autoencoder has convolutions with blocks between them")
    return _Stages(
        first=shape_of(shapes, f"{convolutions[0]}.weight", 4),
        last=shape_of(shapes, f"{convolutions[-1]}.weight", 4),
        blocks=tuple(sum(1 for n in blocks if first < n < second) for first, second in pairwise(convolutions)),
    )
