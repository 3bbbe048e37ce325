"""Control networks opened, told what their pictures show, and laid on conditions. No weights are read here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..networks.memory import WeightMemory, Weights
from ..pictures.resize import resize
from ..types import Conditioning, Control, ControlNet, Image, Mask, Vae
from .reading import describe_control
from .sources import source_of
from .specs import AUTO, unknown_kind, unshown


def open_control(path: Path | str, memory: WeightMemory) -> ControlNet:
    """Returns the control network of a safetensors file or a folder, its weights still on disk. Raises HeaderError."""
    found = describe_control(path)
    return ControlNet(found.spec, Weights(memory, source_of(found.spec, found.part)))


def tell_kind(net: ControlNet, kind: str) -> ControlNet:
    """Returns a union network that is told what its picture shows; "auto" leaves it to find out. Raises ValueError."""
    if (wrong := unknown_kind(net.spec, kind)) is not None:
        raise ValueError(f"{net.weights.source.title} {wrong}.")
    known = net.spec.kinds or {}
    return replace(net, kinds=() if kind == AUTO else (known[kind],))


def apply_control(
    conditionings: Sequence[Conditioning],
    net: ControlNet,
    image: Image,
    *,
    strength: float = 1.0,
    start: float = 0.0,
    end: float = 1.0,
    spread: bool = False,
    vae: Vae | None = None,
    mask: Mask | None = None,
) -> list[Conditioning]:
    """Returns the conditions, all steered by one more control, behind those that they have. A strength of 0 changes nothing.

    start, end: fractions of the schedule, 0 its noisy beginning. spread: see `Control`. vae: the model's autoencoder, for
    networks that see their picture as a latent. mask: where to repaint, for networks that are shown it, which see nothing of
    the picture there. Raises ValueError if one of them is missing, or a mask is not wanted.
    """
    if (wrong := unshown(net.spec, vae=vae is not None, mask=mask is not None)) is not None:
        raise ValueError(f"{net.weights.source.title} {wrong}.")
    if strength == 0.0:
        return list(conditionings)
    pixels, kept = image.pixels, None
    if mask is not None:
        kept = 1.0 - mask.values
        height, width = pixels.shape[1:3]
        sized = resize(kept.unsqueeze(1), width=width, height=height, method="bilinear", crop="center")
        pixels = pixels * sized.round().movedim(1, -1)
    control = Control(net, pixels, strength, start, end, spread, vae if net.spec.hint.latent else None, kept)
    return [
        Conditioning(tuple(replace(entry, controls=(*entry.controls, control)) for entry in conditioning.entries))
        for conditioning in conditionings
    ]
