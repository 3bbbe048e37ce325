"""What is known of every control network, as data, and which denoising networks it goes with.

A spec says nothing of weights; this module reads no file and loads no torch. The kinds of networks are in `unet_specs` and
`transformer_specs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ..families.catalogue import FAMILIES
from ..families.specs import ModelSpec

Kinds = Mapping[str, int]
"""What the picture of a union network may show, by the number that the network was trained to know it by."""

AUTO = "auto"
"""The kind that leaves it to a union network to find out what its picture shows."""

NEEDS_VAE = "sees its picture as a latent; link the model's VAE to input 'vae' of ApplyControlNet"
NEEDS_MASK = "is shown which part to repaint; use ApplyInpaintControlNet, which takes a mask"
TAKES_NO_MASK = "is not shown which part to repaint; use ApplyControlNet"


@dataclass(frozen=True, slots=True)
class HintSpec:
    """How a control network is shown its picture.

    channels: of the picture, or of its latent. multiple: what the sides of the picture, in pixels, are rounded up to multiples
    of. latent: it sees the picture as a latent of the model's autoencoder; shifted: one that is shifted as the model's are.
    mask: it is shown, as one more channel, which part to keep, and of the picture that part alone. gain, offset: what the
    values of the picture, 0..1, are multiplied by before it is encoded, and what is added then.
    """

    channels: int = 3
    multiple: int = 1
    latent: bool = False
    shifted: bool = True
    mask: bool = False
    gain: float = 1.0
    offset: float = 0.0


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
    def hint(self) -> HintSpec:
        """How it is shown its picture."""

    @property
    def kinds(self) -> Kinds | None:
        """What a union network's picture may show, by number, or None if it is no union network."""

    def misfit(self, model: ModelSpec) -> str | None:
        """Returns in words why it can't steer a denoising network, or None if it can."""


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


def unshown(spec: ControlSpec, *, vae: bool, mask: bool) -> str | None:
    """Returns what a network lacks to be shown a picture, or is given too much, as the rest of a sentence about it, or None.

    vae, mask: whether these are at hand.
    """
    if spec.hint.mask != mask:
        return f"is {spec.title}, which {NEEDS_MASK if spec.hint.mask else TAKES_NO_MASK}"
    return f"is {spec.title}, which {NEEDS_VAE}" if spec.hint.latent and not vae else None


def titled(kind: str, family: str | None) -> str:
    """Returns what a control network is, for messages: its kind, and the family that it is for if that is known."""
    titles = {row.name: row.title for row in FAMILIES}
    return kind if family is None else f"{kind} for {titles.get(family, family)}"


def first_kinds(kinds: Kinds, number: int | None) -> Kinds | None:
    """Returns the kinds that a network knows which tells so many apart, or None for one that is no union network."""
    return None if number is None else {name: n for name, n in kinds.items() if n < number}
