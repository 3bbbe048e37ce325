"""What is known of each kind of control network, as data, and which denoising networks it goes with.

A spec says nothing of weights; this module reads no file and loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from ..families.catalogue import FAMILIES
from ..families.dit_specs import FluxSpec, MMDiTSpec
from ..families.specs import ModelSpec, UNetSpec

AdapterKind = Literal["full_adapter", "full_adapter_xl", "light_adapter"]

Kinds = Mapping[str, int]
"""What the picture of a union network may show, by the number that the network was trained to know it by."""

UNION_KINDS: Kinds = {
    "openpose": 0,
    "depth": 1,
    "hed/pidi/scribble/ted": 2,
    "canny/lineart/anime_lineart/mlsd": 3,
    "normal": 4,
    "segment": 5,
    "tile": 6,
    "repaint": 7,
}
"""Those of xinsir's network for SDXL, by ComfyUI's names; networks with fewer kinds know the first ones."""

FLUX_UNION_KINDS: Kinds = {
    "canny/lineart/anime_lineart/mlsd": 0,
    "tile": 1,
    "depth": 2,
    "blur": 3,
    "openpose": 4,
    "gray": 5,
    "low quality": 6,
}
"""Those of InstantX's and Shakker Labs' networks for FLUX.1."""


AUTO = "auto"
"""The kind that leaves it to a union network to find out what its picture shows."""

NEEDS_VAE = "sees its picture as a latent; link the model's VAE to input 'vae'"


class ControlSpec(Protocol):
    """A control network's structure."""

    @property
    def family(self) -> str | None:
        """The family whose networks it steers, or None if that is not known."""

    @property
    def title(self) -> str:
        """What it is, for messages: "a ControlNet for Stable Diffusion XL"."""

    @property
    def text_width(self) -> int | None:
        """Numbers a token of the text that it attends to, or None if it reads none."""

    @property
    def hint_channels(self) -> int:
        """Channels of the picture that it takes, or of its latent."""

    @property
    def hint_multiple(self) -> int:
        """What the sides of that picture, in pixels, are rounded up to multiples of."""

    @property
    def kinds(self) -> Kinds | None:
        """What a union network's picture may show, by number, or None if it is no union network."""

    @property
    def sees_latents(self) -> bool:
        """Whether it sees its picture as a latent of the model's autoencoder."""

    def misfit(self, model: ModelSpec) -> str | None:
        """Returns in words why it can't steer a denoising network, or None if it can."""


@dataclass(frozen=True, slots=True)
class UnionSpec:
    """What a union ControlNet has beside another. kinds: of pictures; width, layers: of what joins several pictures."""

    kinds: int
    width: int
    layers: int


@dataclass(frozen=True, slots=True)
class ControlNetSpec:
    """A copy of a UNet's encoder and middle, with an output for each skip connection. Zhang et al. 2023, arXiv:2302.05543.

    encoder: the copy, which has no way up; a context_width of 0 is one without attention. hint_widths: channels of the
    convolutions that shrink the picture, outermost first. pooled: it says the same of the whole picture ("shuffle"). lora: its
    file has the copy as low-rank differences from the UNet that it steers (a control LoRA).
    """

    family: str | None
    encoder: UNetSpec
    hint_channels: int
    hint_widths: tuple[int, ...]
    pooled: bool = False
    union: UnionSpec | None = None
    lora: bool = False

    @property
    def text_width(self) -> int | None:
        """Numbers a token of the text that it attends to, or None if it reads none."""
        return self.encoder.context_width or None

    @property
    def hint_multiple(self) -> int:
        """What the sides of its picture are multiples of: nothing beyond whole latent cells."""
        return 1

    @property
    def kinds(self) -> Kinds | None:
        """What its picture may show, by number, or None if it is no union network."""
        if self.union is None:
            return None
        return {name: number for name, number in UNION_KINDS.items() if number < self.union.kinds}

    @property
    def sees_latents(self) -> bool:
        """It sees pixels."""
        return False

    @property
    def title(self) -> str:
        """What it is, for messages."""
        kind = "a control LoRA" if self.lora else "a union ControlNet" if self.union else "a ControlNet"
        return _titled(kind, self.family)

    def misfit(self, model: ModelSpec) -> str | None:
        """Returns in words why it can't steer a denoising network, or None if it can."""
        network, encoder = model.network, self.encoder
        if not isinstance(network, UNetSpec):
            return "it steers a UNet, and the model has none"
        if encoder.in_channels != model.latent.channels:
            return f"it takes latents with {encoder.in_channels} channels, and the model's have {model.latent.channels}"
        if encoder.context_width not in (0, network.context_width):
            return f"it attends to text of {encoder.context_width} numbers a token, and the model to {network.context_width}"
        found, wanted = skip_widths(encoder), skip_widths(network)
        if found != wanted:
            return f"it steers {_levels(encoder)}, and the model has {_levels(network)}"
        if encoder.vector_width not in (None, network.vector_width):
            return f"it takes a vector of {encoder.vector_width}, and the model one of {network.vector_width or 0}"
        return None


@dataclass(frozen=True, slots=True)
class T2IAdapterSpec:
    """A small network whose features are added in a UNet's encoder. Mou et al. 2023, arXiv:2302.08453.

    widths: channels of its features, outermost first, as diffusers' T2IAdapter counts them. downscale: pixels that it
    folds into one cell before its first convolution.
    """

    family: str | None
    kind: AdapterKind
    hint_channels: int
    widths: tuple[int, ...]
    res_blocks: int
    downscale: int

    @property
    def text_width(self) -> None:
        """It reads no text."""
        return

    @property
    def hint_multiple(self) -> int:
        """What the sides of its picture are multiples of, to be folded."""
        return self.downscale

    @property
    def kinds(self) -> None:
        """It is no union network."""
        return

    @property
    def sees_latents(self) -> bool:
        """It sees pixels."""
        return False

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return _titled("a T2I adapter", self.family)

    @property
    def features(self) -> tuple[int, ...]:
        """Channels of its features, in order; a light adapter makes one more of the last width."""
        return (*self.widths, self.widths[-1]) if self.kind == "light_adapter" else self.widths

    def misfit(self, model: ModelSpec) -> str | None:
        """Returns in words why it can't steer a denoising network, or None if it can."""
        network = model.network
        if not isinstance(network, UNetSpec):
            return "it steers a UNet, and the model has none"
        wanted = network.widths
        if self.kind == "full_adapter_xl":  # one feature more, for the middle
            wanted = (*wanted, wanted[-1])
        if self.features == wanted:
            return None
        return f"its features have {_list(self.features)} channels, and the model takes {_list(wanted)}"


@dataclass(frozen=True, slots=True)
class TransformerControlSpec:
    """A copy of some blocks of SD3's or FLUX.1's transformer, with an output for each; it sees its picture as a latent.

    network: their structure. union: how many kinds of picture it tells apart, or None. plain: it is told no pooled text, and
    its latents are not shifted, as InstantX trained its networks for SD3.
    """

    family: str
    network: MMDiTSpec | FluxSpec
    union: int | None = None
    plain: bool = False

    hint_multiple: ClassVar[int] = 1
    sees_latents: ClassVar[bool] = True

    @property
    def hint_channels(self) -> int:
        """Channels of the latent that it takes."""
        return self.network.in_channels

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return _titled("a ControlNet" if self.union is None else "a union ControlNet", self.family)

    @property
    def text_width(self) -> int:
        """Numbers a token of the text that it reads."""
        return self.network.context_width

    @property
    def kinds(self) -> Kinds | None:
        """What its picture may show, by number, or None if it is no union network."""
        if self.union is None:
            return None
        return {name: number for name, number in FLUX_UNION_KINDS.items() if number < self.union}

    def misfit(self, model: ModelSpec) -> str | None:
        """Returns in words why it can't steer a denoising network, or None if it can."""
        network, ours = model.network, self.network
        if not isinstance(network, MMDiTSpec | FluxSpec) or network.kind != ours.kind:
            return "it steers a transformer of another kind"
        if ours.in_channels != model.latent.channels:
            return f"it takes latents with {ours.in_channels} channels, and the model's have {model.latent.channels}"
        if (ours.width, ours.context_width, ours.pooled_width) != (
            network.width,
            network.context_width,
            network.pooled_width,
        ):
            return f"its blocks are {ours.width} wide, and the model's {network.width}"
        return None


def refusal(spec: ControlSpec, model: ModelSpec) -> str | None:
    """Returns why a control network can't steer a model, as the rest of a sentence about it, or None if it can."""
    if (reason := spec.misfit(model)) is None:
        return None
    cure = "of its size" if spec.family == model.family else f"of the {model.family} family"
    return f"is {spec.title}, but the model is of the {model.family} family: {reason}; use one that was made for models {cure}"


def unknown_kind(spec: ControlSpec, kind: str) -> str | None:
    """Returns why a network can't be told a kind of picture, as the rest of a sentence about it, or None if it can."""
    if spec.kinds is None:
        return f"is {spec.title}, which takes one kind of picture only"
    if kind == AUTO or kind in spec.kinds:
        return None
    return f"is {spec.title}, which knows {', '.join(spec.kinds)}, and not {kind}"


def skip_widths(spec: UNetSpec) -> list[int]:
    """Returns the channels of each skip connection of a UNet, outermost first; the last are those of its middle, too."""
    widths = [spec.widths[0]]
    for x, (width, blocks) in enumerate(zip(spec.widths, spec.res_blocks, strict=True)):
        widths += [width] * (blocks + (x < len(spec.widths) - 1))
    return widths


def _titled(kind: str, family: str | None) -> str:
    titles = {row.name: row.title for row in FAMILIES}
    return kind if family is None else f"{kind} for {titles.get(family, family)}"


def _levels(spec: UNetSpec) -> str:
    return f"levels of {_list(spec.widths)} channels with {_list(spec.res_blocks)} blocks"


def _list(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
