"""What is known of each model family, as data: how to tell it, and what its parts mean.

A family is a row of `FAMILIES`; recognising, building and sampling read the row, and no code asks for a family by name.
Sizes are not in the rows: they are read from shapes, so any width and depth of a known layout is the same family.
This module loads no torch and reads no file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ..levels.space_spec import DiscreteLevels, Levels
from ..names import MaskedFill
from .dit_specs import DiTSpec
from .plain_unets import PlainUNetSpec
from .text_sets import NO_TEXT, TextSet

Prediction = Literal["eps", "v", "edm", "flow"]
NetworkKind = Literal["unet", "plain_unet", "mmdit", "flux", "flux2"]
UNETS: frozenset[NetworkKind] = frozenset({"unet", "plain_unet"})  # all others are transformers
SizeNumber = Literal["height", "width", "crop_y", "crop_x", "target_height", "target_width", "aesthetic_score"]
ExtraChannels = Literal[
    "mask_and_picture",
    "picture",
    "scaled_picture",
    "picture_and_mask_cells",
    "picture_and_mask",
    "depth",
    "small_picture",
    "segments",
]
Colours = tuple[tuple[float, float, float], ...]

UNET_MARKERS: tuple[tuple[str, ...], ...] = (
    ("input_blocks.0.0.weight",),
    ("conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"),
)


@dataclass(frozen=True, slots=True)
class VectorContents:
    """What a UNet's vector conditioning (ADM) is made of: pooled text, or what pictures show and how noisy that is; numbers."""

    of: Literal["text", "pictures"] = "text"
    numbers: tuple[SizeNumber, ...] = ()


SDXL_VECTOR = VectorContents("text", ("height", "width", "crop_y", "crop_x", "target_height", "target_width"))
REFINER_VECTOR = VectorContents("text", ("height", "width", "crop_y", "crop_x", "aesthetic_score"))
PICTURE_VECTOR = VectorContents("pictures")


@dataclass(frozen=True, slots=True)
class UNetSpec:
    """A UNet's structure. Level 0 is the outermost, at full size; depths count transformer blocks, 0 is no attention.

    widths[x]: channels at level x. depths_in[x][i] belongs to the i-th of res_blocks[x] blocks on the way down;
    depths_out[y][i] to the i-th of res_blocks[-1 - y] + 1 blocks on the way up, in order of execution, so that the
    innermost level comes first. depth_middle: None has no middle block, 0 has a lone res block. heads[x]: attention
    heads at level x. vector_width: width of the vector conditioning (ADM), or None, and vector: what is in it. size_width:
    width of the sinusoid for each of its numbers. text_alone[x]: whether the blocks of level x attend to text both times, and
    never to the picture; empty where none do. noise_levels: how many it knows of a picture to go by, None where it is not told.
    """

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    res_blocks: tuple[int, ...]
    depths_in: tuple[tuple[int, ...], ...]
    depths_out: tuple[tuple[int, ...], ...]
    depth_middle: int | None
    heads: tuple[int, ...]
    context_width: int
    linear_projection: bool
    vector_width: int | None = None
    size_width: int = 256
    vector: VectorContents = SDXL_VECTOR
    text_alone: tuple[bool, ...] = ()
    noise_levels: int | None = None

    kind: ClassVar[Literal["unet"]] = "unet"
    guidance: ClassVar[bool] = False
    references: ClassVar[bool] = False

    @property
    def size_numbers(self) -> tuple[SizeNumber, ...]:
        """The numbers that it is told of the picture's size."""
        return self.vector.numbers if self.vector_width else ()

    @property
    def pooled_width(self) -> int | None:
        """Width of the pooled text that is part of its vector conditioning, or None if it has none."""
        if self.vector_width is None or self.vector.of != "text":
            return None
        return self.vector_width - len(self.vector.numbers) * self.size_width

    @property
    def picture_width(self) -> int | None:
        """Width of the picture embeddings that it can be told of: instead of text, or in its place. None if it can't."""
        if self.vector_width is None or self.vector.of == "text":
            return self.pooled_width
        return self.vector_width // 2  # as much tells how noisy they are


DenoiserSpec = UNetSpec | PlainUNetSpec | DiTSpec
"""A denoising network's structure. Each has a `kind`, `in_channels`, the widths of its text, and what else it is told:

size_numbers: how many numbers of SDXL's size conditioning; guidance: whether how strongly to follow the prompt; references:
whether latents of pictures to go by.
"""


@dataclass(frozen=True, slots=True)
class LatentFormat:
    """How a family's network sees a latent: model space = (z - shift) * scale, z in VAE space.

    means, stds: where a channel has a mean and a standard deviation of its own, model space = (z - mean) / std * scale.
    colours: for previews, what each channel of a latent in model space adds to R, G and B in -1..1, a row a channel; one
    row more is added everywhere. None: not known.
    """

    channels: int
    scale: float
    shift: float = 0.0
    downscale: int = 8
    means: tuple[float, ...] = ()
    stds: tuple[float, ...] = ()
    colours: Colours | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A denoising network and what its output means.

    prediction, levels, sigma_data: its sampling space (see `SpaceSpec`). resolution: the side in pixels it was trained at.
    extra: what the network is given where it takes more channels than the latent has, as `sampling.extra_channels` makes it.
    picture_mean, picture_std: of the picture embeddings that it was trained with, a number each; 0 and 1 where they are empty.
    """

    family: str
    network: DenoiserSpec
    latent: LatentFormat
    prediction: Prediction
    resolution: int
    levels: Levels = DiscreteLevels()
    sigma_data: float = 1.0
    extra: ExtraChannels = "mask_and_picture"
    picture_mean: tuple[float, ...] = ()
    picture_std: tuple[float, ...] = ()

    @property
    def takes_extra(self) -> bool:
        """Whether the network takes more channels than the latent has."""
        return self.network.in_channels > self.latent.channels

    @property
    def inpaint(self) -> bool:
        """Whether the network takes a mask and a masked picture as extra input channels."""
        return self.takes_extra and self.extra in {"mask_and_picture", "picture_and_mask_cells", "picture_and_mask"}

    @property
    def masked_fill(self) -> MaskedFill:
        """What is under the mask in the picture that a network for inpainting is shown."""
        return "black" if self.extra == "picture_and_mask" else "grey"

    @property
    def sees_depth(self) -> bool:
        """Whether the network is shown how near things are."""
        return self.takes_extra and self.extra == "depth"

    @property
    def enlarges(self) -> bool:
        """Whether the network is shown a small picture, a pixel a cell, and enlarges it."""
        return self.takes_extra and self.extra == "small_picture"

    @property
    def sees_segments(self) -> bool:
        """Whether the network is shown which class each place of the picture is of."""
        return self.takes_extra and self.extra == "segments"

    @property
    def knows_noise(self) -> bool:
        """Whether the network is told how noisy the picture is that it enlarges."""
        return isinstance(self.network, UNetSpec) and self.network.noise_levels is not None

    @property
    def edits(self) -> bool:
        """Whether the network is shown a picture to edit or to follow (InstructPix2Pix, FLUX canny and depth)."""
        return self.takes_extra and self.extra in {"picture", "scaled_picture"}

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether its noise schedule ends in pure noise. Lin et al. 2023, arXiv:2305.08891."""
        return isinstance(self.levels, DiscreteLevels) and self.levels.zero_terminal_snr

    @property
    def context_width(self) -> int:
        """Width of the text embedding that the network attends to."""
        return self.network.context_width

    @property
    def pooled_width(self) -> int | None:
        """Width of the pooled text that the network takes, or None if it takes none."""
        return self.network.pooled_width


@dataclass(frozen=True, slots=True)
class UNetPattern:
    """The structure that tells one UNet family from another; widths say nothing. None: either will do.

    linear_projection: the transformers' proj_in is a matrix (2-D) instead of a 1x1 convolution (4-D). vector: there is
    a label_emb. noise_levels: it is a table, of noise levels. outer_attention, inner_attention: the outermost and innermost
    levels attend.
    """

    linear_projection: bool | None = None
    vector: bool | None = None
    outer_attention: bool | None = None
    inner_attention: bool | None = None
    noise_levels: bool | None = False
    in_channels: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class DiTPattern:
    """What tells one variant of a diffusion transformer from another. None: either will do."""

    guidance: bool | None = None
    in_channels: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class PredictionRule:
    """How a file of a family shows what its network predicts; without evidence it is eps.

    always: what all networks of the family predict, whatever a file says.
    v_key, zero_snr_key: keys of the file whose presence means v, and zero terminal SNR. v_probe: a tensor of the last
    spatial transformer whose standard deviation exceeds `v_threshold` in v networks; asked of 4-channel networks only.
    """

    always: Prediction | None = None
    v_key: str | None = None
    zero_snr_key: str | None = None
    v_probe: str | None = None
    v_threshold: float = 0.0


@dataclass(frozen=True, slots=True)
class Family:
    """One row of the table; the first row that fits a file is its family. Variants of one family share its name.

    kind: how the structure is read. markers: keys below the network's prefix that such a file has, each tuple an
    alternative. file_markers: keys it has at the top, or with "component/" before them in a folder, in the same way. unet,
    transformer: what tells it from others with these keys. head_count, or else head_width, tells a UNet's attention heads, and
    vector what its vector conditioning is made of, which shapes do not. levels, sigma_data, extra: see `ModelSpec`.
    told_by_file: whether its files tell their own levels and latent scale, and their VAE the pixels of a latent cell.
    resolution: the side in pixels that its networks were trained at, and v_resolution that of its v networks where it differs.
    vae_prefix: where its single files keep the VAE.
    """

    name: str
    title: str
    latent: LatentFormat
    markers: tuple[tuple[str, ...], ...] = UNET_MARKERS
    file_markers: tuple[tuple[str, ...], ...] = ((),)
    kind: NetworkKind = "unet"
    unet: UNetPattern | None = None
    transformer: DiTPattern | None = None
    prediction: PredictionRule = PredictionRule()
    levels: Levels = DiscreteLevels()
    sigma_data: float = 1.0
    extra: ExtraChannels = "mask_and_picture"
    vector: VectorContents = SDXL_VECTOR
    told_by_file: bool = False
    head_count: int | None = None
    head_width: int = 64
    resolution: int = 512
    v_resolution: int | None = None
    text: TextSet = NO_TEXT
    vae_prefix: str = "first_stage_model."


def network_words(kind: NetworkKind) -> str:
    """Returns what networks of a kind are, for messages."""
    return {"unet": "a UNet", "plain_unet": "a UNet without text"}.get(kind, "a transformer")
