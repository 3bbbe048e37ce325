"""What is known of autoencoders, as data: the kinds that there are, and what each one's shapes leave open.

All kinds speak *VAE space*: scale and shift to a network's units are the model's affair (`LatentFormat`). A kind that was
trained on a network's own units says by which scale and shift it leaves them. This module loads no torch and reads no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

PATCH = 2  # latent cells along a side of a patch, in FLUX.2


@dataclass(frozen=True, slots=True)
class KLSpec:
    """An autoencoder whose latents are kept near a normal distribution. Rombach et al. 2022, arXiv:2112.10752.

    widths: channels by level, outermost first; encoder_blocks: res blocks a level on the way down (the decoder has one
    more); attention: whether the blocks of each level attend, none where it is empty; middle_attention: whether the middle
    does; quant_convs: whether 1x1 convolutions sit at the bottleneck.
    """

    latent_channels: int
    widths: tuple[int, ...]
    encoder_blocks: int
    attention: tuple[bool, ...] = ()
    middle_attention: bool = True
    quant_convs: bool = True
    picture_channels: int = 3

    scale = None
    modules = ("",)
    encodes, draws_noise = True, False

    @property
    def downscale(self) -> int:
        """Pixels per latent cell, along a side."""
        return 1 << (len(self.widths) - 1)


@dataclass(frozen=True, slots=True)
class PatchedKLSpec:
    """FLUX.2's autoencoder: patches of 2x2 cells are its latents' channels, normalised by statistics that it has with it.

    decoder_widths: of the decoder's levels, outermost first. The other fields are those of `KLSpec`, latent_channels those of
    the patches.
    """

    latent_channels: int
    widths: tuple[int, ...]
    decoder_widths: tuple[int, ...]
    encoder_blocks: int
    middle_attention: bool = True
    quant_convs: bool = True
    picture_channels: int = 3

    scale = None
    modules = ("",)
    encodes, draws_noise = True, False

    @property
    def downscale(self) -> int:
        """Pixels per latent cell, along a side."""
        return PATCH << (len(self.widths) - 1)


@dataclass(frozen=True, slots=True)
class VQSpec:
    """An autoencoder that decodes the nearest entries of a codebook. Esser et al. 2020, arXiv:2012.09841.

    codes: how many entries the codebook has, each of `latent_channels` numbers; inner_channels: of what 1x1 convolutions make
    of them. The other fields are those of `KLSpec`.
    """

    latent_channels: int
    codes: int
    inner_channels: int
    widths: tuple[int, ...]
    encoder_blocks: int
    attention: tuple[bool, ...] = ()
    middle_attention: bool = True
    picture_channels: int = 3

    scale = None
    modules = ("",)
    encodes, draws_noise = True, False

    @property
    def downscale(self) -> int:
        """Pixels per latent cell, along a side."""
        return 1 << (len(self.widths) - 1)


@dataclass(frozen=True, slots=True)
class TinySpec:
    """A small autoencoder distilled from a family's own: TAESD and its kin. It works in the units of the family's network.

    width: channels of every level. decoder_blocks: blocks by stage, in order of execution; encoder_blocks: the same, None
    without an encoder. scale, shift: those of the family's latent format.
    """

    latent_channels: int
    width: int
    decoder_blocks: tuple[int, ...]
    encoder_blocks: tuple[int, ...] | None
    scale: float
    shift: float = 0.0
    picture_channels: int = 3

    draws_noise = False

    @property
    def downscale(self) -> int:
        """Pixels per latent cell, along a side."""
        return 1 << (len(self.decoder_blocks) - 1)

    @property
    def encodes(self) -> bool:
        """Whether it has an encoder."""
        return self.encoder_blocks is not None

    @property
    def modules(self) -> tuple[str, ...]:
        """The decoder, and the encoder where there is one."""
        return ("decoder", "encoder") if self.encodes else ("decoder",)


@dataclass(frozen=True, slots=True)
class ConsistencySpec:
    """The decoder of DALL-E 3: a UNet that makes the picture from noise in two steps, beside SD1's own encoder.

    Song et al. 2023, arXiv:2303.01469. encoder_widths, encoder_blocks: as in `KLSpec`; decoder_widths, decoder_blocks: those
    of the UNet, outermost level first; times: of how many its time embedding knows.
    """

    latent_channels: int
    encoder_widths: tuple[int, ...]
    encoder_blocks: int
    decoder_widths: tuple[int, ...]
    decoder_blocks: int
    times: int
    picture_channels: int = 3
    scale: float = 0.18215  # openai/consistencydecoder: that of SD1's latents

    modules = ("",)
    encodes, draws_noise = True, True

    @property
    def downscale(self) -> int:
        """Pixels per latent cell, along a side."""
        return 1 << (len(self.encoder_widths) - 1)


VaeSpec = KLSpec | PatchedKLSpec | VQSpec | TinySpec | ConsistencySpec
"""Any kind of autoencoder. All tell, as fields or properties:

latent_channels, picture_channels, downscale. scale: that of the latent format that it was trained with, None where it serves
any. modules: the parts of the network that a file may hold apart from others, an empty name for all of it. encodes: whether
it takes pictures, too. draws_noise: whether decoding draws noise.
"""

TinyFamily = Literal["sd1", "sdxl", "sd3", "flux"]


class TinyFormat(NamedTuple):
    """Whose latents a published tiny autoencoder speaks, which its weights do not tell."""

    name: str
    channels: int
    scale: float
    shift: float = 0.0


TINY_FORMATS: Mapping[TinyFamily, TinyFormat] = {
    "sd1": TinyFormat("taesd", 4, 0.18215),
    "sdxl": TinyFormat("taesdxl", 4, 0.13025),
    "sd3": TinyFormat("taesd3", 16, 1.5305, 0.0609),
    "flux": TinyFormat("taef1", 16, 0.3611, 0.1159),
}
"""By the family whose network is at home there: SD2 shares SD1's latents. Names and numbers: madebyollin/taesd."""
