"""Control networks opened, told what their pictures show, and laid on conditions. No weights are read here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..networks.memory import WeightMemory, Weights
from ..types import Conditioning, Control, ControlNet, Image
from .reading import describe_control
from .sources import source_of


def open_control(path: Path | str, memory: WeightMemory) -> ControlNet:
    """Returns the control network of a safetensors file or a folder, its weights still on disk. Raises HeaderError."""
    found = describe_control(path)
    return ControlNet(found.spec, Weights(memory, source_of(found.spec, found.part)))


def tell_kinds(net: ControlNet, kinds: tuple[int, ...]) -> ControlNet:
    """Returns a union network that is told what its picture shows; nothing leaves it open. Raises ValueError."""
    known = net.spec.union_kinds
    if known is None:
        raise ValueError(f"{net.weights.source.title} is {net.spec.title}, which takes one kind of picture only.")
    if unknown := [kind for kind in kinds if kind >= known]:
        raise ValueError(f"{net.weights.source.title} knows {known} kinds of picture, and not number {unknown[0]}.")
    return replace(net, kinds=kinds)


def apply_control(
    conditionings: Sequence[Conditioning],
    net: ControlNet,
    image: Image,
    *,
    strength: float = 1.0,
    start: float = 0.0,
    end: float = 1.0,
    spread: bool = False,
) -> list[Conditioning]:
    """Returns the conditions, all steered by one more control, behind those that they have. A strength of 0 changes nothing.

    start, end: fractions of the schedule, 0 its noisy beginning. spread: see `Control`.
    """
    if strength == 0.0:
        return list(conditionings)
    control = Control(net, image.pixels, strength, start, end, spread)
    return [
        Conditioning(tuple(replace(entry, controls=(*entry.controls, control)) for entry in conditioning.entries))
        for conditioning in conditionings
    ]
