"""Control networks for UNets, as data: ControlNets, control LoRAs and T2I adapters; see `specs`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..families.specs import ModelSpec, UNetSpec
from .specs import HintSpec, Kinds, first_kinds, titled

AdapterKind = Literal["full_adapter", "full_adapter_xl", "light_adapter"]

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
    picture_channels: int
    hint_widths: tuple[int, ...]
    pooled: bool = False
    union: UnionSpec | None = None
    lora: bool = False

    @property
    def text_width(self) -> int | None:
        """Numbers a token of the text that it attends to, or None if it reads none."""
        return self.encoder.context_width or None

    @property
    def hint(self) -> HintSpec:
        """How it is shown its picture: as it is."""
        return HintSpec(self.picture_channels)

    @property
    def kinds(self) -> Kinds | None:
        """What its picture may show, by number, or None if it is no union network."""
        return first_kinds(UNION_KINDS, None if self.union is None else self.union.kinds)

    @property
    def title(self) -> str:
        """What it is, for messages."""
        kind = "a control LoRA" if self.lora else "a union ControlNet" if self.union else "a ControlNet"
        return titled(kind, self.family)

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
    picture_channels: int
    widths: tuple[int, ...]
    res_blocks: int
    downscale: int

    @property
    def text_width(self) -> None:
        """It reads no text."""
        return

    @property
    def hint(self) -> HintSpec:
        """How it is shown its picture: with sides that can be folded."""
        return HintSpec(self.picture_channels, multiple=self.downscale)

    @property
    def kinds(self) -> None:
        """It is no union network."""
        return

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return titled("a T2I adapter", self.family)

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


def skip_widths(spec: UNetSpec) -> list[int]:
    """Returns the channels of each skip connection of a UNet, outermost first; the last are those of its middle, too."""
    widths = [spec.widths[0]]
    for x, (width, blocks) in enumerate(zip(spec.widths, spec.res_blocks, strict=True)):
        widths += [width] * (blocks + (x < len(spec.widths) - 1))
    return widths


def _levels(spec: UNetSpec) -> str:
    return f"levels of {_list(spec.widths)} channels with {_list(spec.res_blocks)} blocks"


def _list(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
