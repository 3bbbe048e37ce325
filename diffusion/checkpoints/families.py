"""What is known of each model family, as data: how to tell it, and what its parts mean.

A family is a row of `FAMILIES`; recognising, building and sampling read the row, and no code asks for a family by name.
Sizes are not in the rows: they are read from shapes, so any width and depth of a known layout is the same family.
This module loads no torch and reads no file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from ..levels.space_spec import ContinuousLevels, DiscreteLevels, Levels
from .dit_specs import DiTSpec
from .plain_unets import PlainUNetSpec
from .text_sets import NO_TEXT, REFINER_TEXT, SD1_TEXT, SD2_TEXT, SDXL_TEXT, TextSet

Prediction = Literal["eps", "v", "edm", "flow"]
NetworkKind = Literal["unet", "plain_unet", "mmdit", "flux", "flux2"]
SizeNumber = Literal["height", "width", "crop_y", "crop_x", "target_height", "target_width", "aesthetic_score"]
ExtraChannels = Literal["mask_and_picture", "picture", "scaled_picture", "picture_and_mask_cells", "depth"]
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
    width of the sinusoid for each of its numbers.
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
    extra: what the network is given where it takes more channels than the latent has: a mask and the latent of the masked
    picture, or the latent of a picture to go by, as the VAE makes it or scaled as latents are. picture_mean, picture_std: of
    the picture embeddings that it was trained with, a number each; 0 and 1 where they are empty.
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
        return self.takes_extra and self.extra in {"mask_and_picture", "picture_and_mask_cells"}

    @property
    def sees_depth(self) -> bool:
        """Whether the network is shown how near things are."""
        return self.takes_extra and self.extra == "depth"

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
    a label_emb. outer_attention, inner_attention: the outermost and innermost levels attend.
    """

    linear_projection: bool | None = None
    vector: bool | None = None
    outer_attention: bool | None = None
    inner_attention: bool | None = None
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
    vae_prefix: where its single files keep the VAE. `supported` is False for a family that is recognised, so that its user gets
    a clear answer, but that can't be run yet.
    """

    name: str
    title: str
    markers: tuple[tuple[str, ...], ...] = UNET_MARKERS
    file_markers: tuple[tuple[str, ...], ...] = ((),)
    kind: NetworkKind = "unet"
    unet: UNetPattern | None = None
    transformer: DiTPattern | None = None
    latent: LatentFormat | None = None
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
    supported: bool = False


# Colours: least-squares fits to decoded pictures by @keturn, @erucipe, @torridgristle (SD 1.5) and @StAlKeR7779 (SDXL), as
# published with InvokeAI.
SD_LATENT = LatentFormat(
    channels=4,
    scale=0.18215,  # LDM configs, scale_factor: latents to about unit std
    colours=(
        (0.3444, 0.1385, 0.0670),
        (0.1247, 0.4027, 0.1494),
        (-0.3192, 0.2513, 0.2103),
        (-0.1307, -0.1874, -0.7445),
    ),
)
SDXL_LATENT = LatentFormat(
    channels=4,
    scale=0.13025,  # SDXL base config, scale_factor
    colours=(
        (0.3816, 0.4930, 0.5320),
        (-0.3753, 0.1631, 0.1739),
        (0.1770, 0.3588, -0.2048),
        (-0.4350, -0.2644, -0.4289),
    ),
)

PLAYGROUND_LATENT = LatentFormat(
    channels=4,
    scale=0.5,  # Playground 2.5's VAE config: scaling_factor, latents_mean, latents_std
    means=(-1.6574, 1.886, -1.383, 2.5155),
    stds=(8.4927, 5.9022, 6.5498, 5.2299),
)

DEPTH = frozenset({5})  # latent + depth
BASE = frozenset({4})  # the latent alone
BASE_OR_INPAINT = frozenset({4, 9})  # latent; latent + mask + masked latent
INSTRUCT = frozenset({8})  # latent + latent of the picture to edit

_SDXL = UNetPattern(linear_projection=True, vector=True, outer_attention=False, inner_attention=True)

_EDM_V = (("edm_vpred.sigma_max",), ("scheduler/EDMEulerScheduler/v_prediction",))

UNET_FAMILIES: tuple[Family, ...] = (
    Family(
        name="sd1",
        title="Stable Diffusion 1.x InstructPix2Pix",
        unet=UNetPattern(linear_projection=False, vector=False, in_channels=INSTRUCT),
        latent=SD_LATENT,
        extra="picture",
        head_count=8,
        text=SD1_TEXT,
        supported=True,
    ),
    Family(
        name="sd1",
        title="Stable Diffusion 1.x",
        unet=UNetPattern(linear_projection=False, vector=False, in_channels=BASE_OR_INPAINT),
        latent=SD_LATENT,
        head_count=8,
        text=SD1_TEXT,
        supported=True,
    ),
    Family(
        name="sd2",
        title="Stable Diffusion 2 depth",
        unet=UNetPattern(linear_projection=True, vector=False, in_channels=DEPTH),
        latent=SD_LATENT,
        extra="depth",
        text=SD2_TEXT,
        supported=True,
    ),
    Family(
        name="sd-x4-upscaler",
        title="Stable Diffusion x4 upscaler",
        unet=UNetPattern(linear_projection=True, vector=False, in_channels=frozenset({7})),
    ),
    Family(
        name="sd2",
        title="Stable Diffusion 2.x",
        unet=UNetPattern(linear_projection=True, vector=False, in_channels=BASE_OR_INPAINT),
        latent=SD_LATENT,
        prediction=PredictionRule(v_probe="transformer_blocks.0.norm1.bias", v_threshold=0.09),
        v_resolution=768,
        text=SD2_TEXT,
        supported=True,
    ),
    Family(
        name="sd2-unclip",
        title="Stable Diffusion 2.1 unCLIP",
        unet=UNetPattern(linear_projection=True, vector=True, outer_attention=True, in_channels=BASE),
        latent=SD_LATENT,
        prediction=PredictionRule(v_probe="transformer_blocks.0.norm1.bias", v_threshold=0.09),
        vector=PICTURE_VECTOR,
        resolution=768,
        text=SD2_TEXT,
        supported=True,
    ),
    Family(
        name="playground-2.5",
        title="Playground 2.5",
        file_markers=(
            ("edm_mean", "edm_std"),
            ("scheduler/EDMDPMSolverMultistepScheduler/epsilon",),
            ("scheduler/EDMEulerScheduler/epsilon",),
        ),
        unet=replace(_SDXL, in_channels=BASE),
        latent=PLAYGROUND_LATENT,
        prediction=PredictionRule(always="edm"),
        levels=ContinuousLevels(sigma_min=0.002, sigma_max=80.0),  # its scheduler's config
        sigma_data=0.5,
        resolution=1024,
        text=SDXL_TEXT,
        supported=True,
    ),
    Family(
        name="sdxl-edm",
        title="Stable Diffusion XL with EDM v-prediction, InstructPix2Pix",  # CosXL edit
        file_markers=_EDM_V,
        unet=replace(_SDXL, in_channels=INSTRUCT),
        latent=SDXL_LATENT,
        prediction=PredictionRule(always="v"),
        levels=ContinuousLevels(),
        extra="scaled_picture",
        resolution=1024,
        text=SDXL_TEXT,
        supported=True,
    ),
    Family(
        name="sdxl-edm",
        title="Stable Diffusion XL with EDM v-prediction",  # CosXL
        file_markers=_EDM_V,
        unet=replace(_SDXL, in_channels=BASE_OR_INPAINT),
        latent=SDXL_LATENT,
        prediction=PredictionRule(always="v"),
        levels=ContinuousLevels(),
        resolution=1024,
        text=SDXL_TEXT,
        supported=True,
    ),
    Family(
        name="sdxl",
        title="Stable Diffusion XL InstructPix2Pix",
        unet=replace(_SDXL, in_channels=INSTRUCT),
        latent=SDXL_LATENT,
        prediction=PredictionRule(v_key="v_pred", zero_snr_key="ztsnr"),
        extra="picture",
        resolution=1024,
        text=SDXL_TEXT,
        supported=True,
    ),
    Family(
        name="sdxl",
        title="Stable Diffusion XL",
        unet=replace(_SDXL, in_channels=BASE_OR_INPAINT),
        latent=SDXL_LATENT,
        prediction=PredictionRule(v_key="v_pred", zero_snr_key="ztsnr"),
        resolution=1024,
        text=SDXL_TEXT,
        supported=True,
    ),
    Family(
        name="sdxl-refiner",
        title="Stable Diffusion XL refiner",
        unet=UNetPattern(
            linear_projection=True, vector=True, outer_attention=False, inner_attention=False, in_channels=BASE
        ),
        latent=SDXL_LATENT,
        vector=REFINER_VECTOR,
        resolution=1024,
        text=REFINER_TEXT,
        supported=True,
    ),
)
