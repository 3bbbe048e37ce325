"""Every tensor of an autoencoder by name and shape, worked out from its spec alone; see `layout`.

Names are those of diffusers' AutoencoderKL, AutoencoderKLFlux2 and VQModel. Other kinds are not foretold: each has one layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from ..families.autoencoders import PATCH, KLSpec, PatchedKLSpec, VaeSpec, VQSpec
from .autoencoder_structure import CODEBOOK, STATISTICS
from .layout import Entry, conv, dense, norm
from .structure import Shapes


@cache
def vae_layout(spec: VaeSpec) -> Shapes | None:
    """Returns the shape of each tensor of an autoencoder of this structure, or None for a kind that is not foretold."""
    if isinstance(spec, KLSpec):
        return dict(_kl(spec))
    if isinstance(spec, PatchedKLSpec):
        return dict(_patched(spec))
    return dict(_vq(spec)) if isinstance(spec, VQSpec) else None


def _kl(spec: KLSpec) -> Iterator[Entry]:
    yield from _normal(spec, spec.widths, spec.attention, spec.latent_channels)


def _patched(spec: PatchedKLSpec) -> Iterator[Entry]:
    yield from _normal(spec, spec.decoder_widths, (), spec.latent_channels // PATCH**2)
    yield from ((name, (spec.latent_channels,)) for name in STATISTICS)
    yield "bn.num_batches_tracked", ()


def _normal(
    spec: KLSpec | PatchedKLSpec, decoder_widths: tuple[int, ...], attention: tuple[bool, ...], latent: int
) -> Iterator[Entry]:
    """Encoder and decoder of latents near a normal distribution, of which the encoder tells a mean and a variance each."""
    yield from _halves(spec, decoder_widths, attention, latent, moments=2 * latent)
    if spec.quant_convs:
        yield from conv("quant_conv", 2 * latent, 2 * latent, kernel=1)
        yield from conv("post_quant_conv", latent, latent, kernel=1)


def _vq(spec: VQSpec) -> Iterator[Entry]:
    yield from _halves(spec, spec.widths, spec.attention, spec.inner_channels, moments=spec.inner_channels)
    yield CODEBOOK, (spec.codes, spec.latent_channels)
    yield from conv("quant_conv", spec.latent_channels, spec.inner_channels, kernel=1)
    yield from conv("post_quant_conv", spec.inner_channels, spec.latent_channels, kernel=1)


def _halves(
    spec: KLSpec | PatchedKLSpec | VQSpec,
    decoder_widths: tuple[int, ...],
    attention: tuple[bool, ...],
    latent: int,
    *,
    moments: int,
) -> Iterator[Entry]:
    """Encoder and decoder. attention: of each level, outermost first, or empty; latent, moments: channels between them."""
    last, blocks = len(spec.widths) - 1, spec.encoder_blocks
    attends = attention or (False,) * len(spec.widths)
    width = spec.widths[0]
    yield from conv("encoder.conv_in", width, spec.picture_channels)
    for x, out in enumerate(spec.widths):
        for i in range(blocks):
            yield from _block(f"encoder.down_blocks.{x}", i, out, width, attends[x])
            width = out
        if x < last:
            yield from conv(f"encoder.down_blocks.{x}.downsamplers.0.conv", width, width)
    yield from _middle("encoder.mid_block", width, spec.middle_attention)
    yield from norm("encoder.conv_norm_out", width)
    yield from conv("encoder.conv_out", moments, width)
    width = decoder_widths[-1]
    yield from conv("decoder.conv_in", width, latent)
    yield from _middle("decoder.mid_block", width, spec.middle_attention)
    for y, (out, attend) in enumerate(zip(reversed(decoder_widths), reversed(attends), strict=True)):
        for i in range(blocks + 1):
            yield from _block(f"decoder.up_blocks.{y}", i, out, width, attend)
            width = out
        if y < last:
            yield from conv(f"decoder.up_blocks.{y}.upsamplers.0.conv", width, width)
    yield from norm("decoder.conv_norm_out", width)
    yield from conv("decoder.conv_out", spec.picture_channels, width)


def _middle(name: str, width: int, attends: bool) -> Iterator[Entry]:
    yield from _block(name, 0, width, width, attends)
    yield from _block(name, 1, width, width, attends=False)


def _block(name: str, number: int, out: int, into: int, attends: bool) -> Iterator[Entry]:
    """A res block, and the attention behind it."""
    block = f"{name}.resnets.{number}"
    yield from norm(f"{block}.norm1", into)
    yield from conv(f"{block}.conv1", out, into)
    yield from norm(f"{block}.norm2", out)
    yield from conv(f"{block}.conv2", out, out)
    if into != out:
        yield from conv(f"{block}.conv_shortcut", out, into, kernel=1)
    if attends:
        attention = f"{name}.attentions.{number}"
        yield from norm(f"{attention}.group_norm", out)
        for projection in ("to_q", "to_k", "to_v", "to_out.0"):
            yield from dense(f"{attention}.{projection}", out, out)
