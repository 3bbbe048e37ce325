"""The values that travel along the links of a graph. Importing this module loads no torch.

Every value is frozen, and its tensors are never written to by whoever receives it. Tensors are float32 on the CPU
unless a docstring says otherwise. Units and layouts follow the field's conventions:

- a picture is (B, H, W, C) with values nominally in 0..1;
- a mask is (B, H, W) in 0..1, where 1 means "change this";
- a latent is (B, C, h, w) in *VAE space*: not multiplied by the family's scale factor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .names import SamplerName
from .pictures.sizes import CELL

if TYPE_CHECKING:
    from torch import Tensor

    from .checkpoints.parts import FileId
    from .control.specs import ControlSpec
    from .families.autoencoders import VaeSpec
    from .families.text_joins import ClipSpec
    from .families.text_specs import EncoderKey
    from .families.vision import ClipVisionSpec
    from .image_prompts.reading import IPAdapterSpec
    from .image_prompts.redux_reading import StyleSpec
    from .networks.memory import Weights


@dataclass(frozen=True, eq=False, slots=True)
class Image:
    """Pictures of one size. `pixels`: float32 (B, H, W, C), C = 3 (RGB) or 4 (RGBA), nominally 0..1."""

    pixels: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Mask:
    """Where to change a picture. `values`: float32 (B, H, W), 0 keeps and 1 changes."""

    values: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Latent:
    """Encoded pictures, in VAE space.

    samples: float32 (B, C, h, w).
    noise_mask: float32 (B, 1, H, W) in pixel or latent resolution, 1 where sampling may change the latent, or None.
    batch_index: which draw of the noise each item gets; None means 0..B-1.
    cell: how many pixels of the picture a cell stands for along a side, by the autoencoder or the model that made it. Of an
    empty latent, what it was taken for; sampling fits it to what the model has. None: nobody told; see `downscale`.
    """

    samples: Tensor
    noise_mask: Tensor | None = None
    batch_index: tuple[int, ...] | None = None
    cell: int | None = None

    @property
    def downscale(self) -> int:
        """Pixels that a cell stands for along a side; `CELL` where nobody told."""
        return self.cell or CELL


@dataclass(frozen=True, slots=True)
class Area:
    """The rectangle that a condition speaks of: in cells of 8 pixels (`unit="latent"`) or as fractions of the sides."""

    height: float
    width: float
    y: float
    x: float
    unit: Literal["latent", "fraction"] = "latent"


@dataclass(frozen=True, slots=True)
class PictureSize:
    """What SDXL networks are told of a picture: sizes in pixels, and for the refiner how beautiful it is, 0..10.

    A side that is None defaults to 8 times the latent's (target: to the size), a score to 6, and to 2.5 for what to avoid.
    """

    height: int | None = None
    width: int | None = None
    crop_y: int = 0
    crop_x: int = 0
    target_height: int | None = None
    target_width: int | None = None
    aesthetic_score: float | None = None


@dataclass(frozen=True, eq=False, slots=True)
class PicturePrompt:
    """What pictures show, for networks that are told it in place of pooled text.

    embeddings: float32 (N, D), CLIP's projected embedding of each. noise: how much noise is mixed in first, 0..1: more gives
    variations that are further away.
    """

    embeddings: Tensor
    strength: float = 1.0
    noise: float = 0.0


@dataclass(frozen=True, eq=False, slots=True)
class SmallPicture:
    """A picture to enlarge. pixels: float32 (B, H, W, 3) in 0..1. noise: how much is mixed in first, 0..1: more is made up."""

    pixels: Tensor
    noise: float = 0.0


@dataclass(frozen=True, eq=False, slots=True)
class ControlNet:
    """A network that steers a denoising network by a picture: a ControlNet or a T2I adapter.

    kinds: for union networks, what the picture shows, by the numbers of their spec; none leaves it open.
    """

    spec: ControlSpec
    weights: Weights
    kinds: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Control:
    """A control network at work. Conditions that share one (the very object) can share a pass through the networks.

    hint: float32 (B, H, W, C) in 0..1, the picture that it goes by. strength: 1 is what it was trained for. start, end:
    the part of the sampling in which it acts, as for `Condition`. spread: it acts on a negative condition, too, where
    that has no control of its own. vae: the model's, for networks that see their picture as a latent. kept: float32 (B, H, W),
    1 where the picture is kept and 0 where it is to be repainted, for networks that are shown that.
    """

    net: ControlNet
    hint: Tensor
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    spread: bool = False
    vae: Vae | None = None
    kept: Tensor | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Condition:
    """One encoded prompt with everything that says where, when and how strongly it holds.

    embedding: float32 (1, T, D), the text encoder's token states. pooled: float32 (1, P) or None.
    mask: float32 (B, H, W) or None; `mask_bounds` limits the evaluation to the mask's bounding box.
    start, end: the part of the sampling in which it holds, as fractions 0..1 of the schedule (0 is the noisiest).
    concat_latent: (B, C, h, w) in VAE space, and concat_mask: (B, 1, H, W), extra channels for inpainting networks.
    controls: what steers the network under this condition; what they add is summed in their order.
    depth: float32 (B, 1, H, W), how near things are, larger is nearer, in any unit, for networks that are shown it.
    pictures: what pictures show, for a network that is told it. guidance: how strongly a network that was distilled to be
    told, such as FLUX dev, follows the prompt. references: latents of pictures to go by, (B, C, h, w) each, in VAE space.
    small: the picture to enlarge, for a network that does that. segments: (B, C, h, w), what a network is shown of classes.
    """

    embedding: Tensor
    pooled: Tensor | None = None
    area: Area | None = None
    strength: float = 1.0
    mask: Tensor | None = None
    mask_strength: float = 1.0
    mask_bounds: bool = False
    start: float = 0.0
    end: float = 1.0
    size: PictureSize = PictureSize()
    concat_latent: Tensor | None = None
    concat_mask: Tensor | None = None
    controls: tuple[Control, ...] = ()
    depth: Tensor | None = None
    pictures: tuple[PicturePrompt, ...] = ()
    guidance: float = 3.5
    references: tuple[Tensor, ...] = ()
    small: SmallPicture | None = None
    segments: Tensor | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Conditioning:
    """Conditions that hold together; their predictions are averaged by weight."""

    entries: tuple[Condition, ...]

    def each(self, change: Callable[[Condition], Condition]) -> Conditioning:
        """Returns the conditions, each of them changed."""
        return Conditioning(tuple(map(change, self.entries)))


@dataclass(frozen=True, eq=False, slots=True)
class Clip:
    """The text encoders of a model. `layer`: which hidden layer to read, -1 the last; None is the family's own choice.

    tokenizers: the files of those tokenizers that don't come with the package, by the encoder's key.
    """

    spec: ClipSpec
    weights: Weights
    layer: int | None = None
    tokenizers: tuple[tuple[EncoderKey, FileId], ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Vae:
    """The autoencoder between pictures and latents."""

    spec: VaeSpec
    weights: Weights


@dataclass(frozen=True, eq=False, slots=True)
class ClipVision:
    """A vision tower, CLIP's or SigLIP's, which turns pictures into embeddings."""

    spec: ClipVisionSpec
    weights: Weights


@dataclass(frozen=True, eq=False, slots=True)
class ClipVisionOutput:
    """What a vision tower makes of B pictures. N: patches, and of CLIP a class token before them; D: the tower's width.

    last_hidden, penultimate: float32 (B, N, D), the outputs of the last block and of the one before. image_embeds: float32
    (B, P), CLIP's projected embedding; of SigLIP (B, N, D), since it has none, the same as last_hidden.
    """

    last_hidden: Tensor
    penultimate: Tensor
    image_embeds: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class IpAdapter:
    """What makes a UNet attend to pictures."""

    spec: IPAdapterSpec
    weights: Weights


@dataclass(frozen=True, eq=False, slots=True)
class StyleModel:
    """What makes text of pictures, for networks that read it as such."""

    spec: StyleSpec
    weights: Weights


@dataclass(frozen=True, eq=False, slots=True)
class ImagePrompt:
    """Pictures that a model attends to beside its text.

    pixels: float32 (B, H, W, C) in 0..1, seen together. weight: 1 is as strongly as text. start, end: the part of the
    sampling in which it does, as for `Condition`.
    """

    adapter: IpAdapter
    vision: ClipVision
    pixels: Tensor
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True, eq=False, slots=True)
class UpscaleModel:
    """A network that enlarges pictures."""

    weights: Weights


@dataclass(frozen=True, eq=False, slots=True)
class Sigmas:
    """The noise levels that a run visits. `values`: float32 (n + 1,), usually decreasing to 0; empty for no run at all."""

    values: Tensor


@dataclass(frozen=True, slots=True)
class Noise:
    """The random numbers of a run. `silent`: no initial noise is added; the sampler's own still comes from `seed`."""

    seed: int
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Sampler:
    """A sampler by name, with options by theirs: the keyword arguments of its function."""

    name: SamplerName
    options: tuple[tuple[str, float | str | bool | tuple[float, float]], ...] = ()
