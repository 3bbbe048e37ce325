"""ControlNets for transformers, as data: for Stable Diffusion 3 and FLUX.1; see `specs`.

Each is a copy of some blocks of the transformer that it steers, with an output for each, which serves several blocks there.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..families.dit_specs import FluxSpec, MMDiTSpec
from ..families.specs import ModelSpec
from .specs import HintSpec, Kinds, first_kinds, titled

HINT_WIDTH, HINT_CONVOLUTIONS = 16, 6
"""Channels of the convolutions by which XLabs' networks see pixels, and how many there are between the first and the last."""

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


@dataclass(frozen=True, slots=True)
class SD3ControlSpec:
    """A ControlNet for Stable Diffusion 3.

    network: the structure of its blocks; a context_width of 0 is one that reads no text and has no embedding of the latent, but
    leans on that of the network that it steers, as Stability AI's for 3.5 large do. pooled: it is told the pooled text; those
    that are not were trained with zeros.
    """

    network: MMDiTSpec
    hint: HintSpec
    pooled: bool = False

    @property
    def family(self) -> str:
        """The family whose networks it steers."""
        return "sd3"

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return titled("an inpainting ControlNet" if self.hint.mask else "a ControlNet", self.family)

    @property
    def text_width(self) -> int | None:
        """Numbers a token of the text that it reads, or None if it reads none."""
        return self.network.context_width or None

    @property
    def kinds(self) -> None:
        """It is no union network."""
        return

    @property
    def leans(self) -> bool:
        """Whether it takes the embedding of the latent from the network that it steers."""
        return not self.network.context_width

    def misfit(self, model: ModelSpec) -> str | None:
        """Returns in words why it can't steer a denoising network, or None if it can."""
        return _misfit(self.network, model)

    def output_behind(self, block: int, blocks: int, outputs: int) -> int:
        """Returns which of its outputs is added behind a block of the network that it steers, which has so many: evenly."""
        return block * outputs // blocks


@dataclass(frozen=True, slots=True)
class FluxControlSpec:
    """A ControlNet for FLUX.1.

    network: the structure of its blocks. union: how many kinds of picture it tells apart, or None. One that sees pixels is
    XLabs'.
    """

    network: FluxSpec
    hint: HintSpec
    union: int | None = None

    @property
    def family(self) -> str:
        """The family whose networks it steers."""
        return "flux"

    @property
    def title(self) -> str:
        """What it is, for messages."""
        kind = "an inpainting" if self.hint.mask else "a" if self.union is None else "a union"
        return titled(f"{kind} ControlNet", self.family)

    @property
    def text_width(self) -> int:
        """Numbers a token of the text that it reads."""
        return self.network.context_width

    @property
    def kinds(self) -> Kinds | None:
        """What its picture may show, by number, or None if it is no union network."""
        return first_kinds(FLUX_UNION_KINDS, self.union)

    def misfit(self, model: ModelSpec) -> str | None:
        """Returns in words why it can't steer a denoising network, or None if it can."""
        return _misfit(self.network, model)

    def output_behind(self, block: int, blocks: int, outputs: int) -> int:
        """Returns which of its outputs is added behind a block of the network that it steers, which has so many.

        Each serves neighbours; XLabs' take turns.
        """
        return block // -(-blocks // outputs) if self.hint.latent else block % outputs


TransformerControlSpec = SD3ControlSpec | FluxControlSpec


def _misfit(ours: MMDiTSpec | FluxSpec, model: ModelSpec) -> str | None:
    network = model.network
    if not isinstance(network, MMDiTSpec | FluxSpec) or network.kind != ours.kind:
        return "it steers a transformer of another kind"
    if ours.in_channels != model.latent.channels:
        return f"it takes latents with {ours.in_channels} channels, and the model's have {model.latent.channels}"
    if ours.width != network.width:
        return f"its blocks are {ours.width} wide, and the model's {network.width}"
    if ours.context_width not in (0, network.context_width):
        return f"it attends to text of {ours.context_width} numbers a token, and the model to {network.context_width}"
    if ours.pooled_width != network.pooled_width:
        return f"it takes pooled text of {ours.pooled_width} numbers, and the model of {network.pooled_width}"
    return None
