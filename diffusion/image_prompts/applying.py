"""IP adapters opened, and laid on models. No weights are read here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..model import Model
from ..networks.memory import WeightMemory, Weights
from ..types import ClipVision, Image, ImagePrompt, IpAdapter
from .networks import IPAdapterSource
from .reading import describe_ip_adapter


def open_ip_adapter(path: Path | str, memory: WeightMemory) -> IpAdapter:
    """Returns the IP adapter of a file, its weights still on disk. Raises HeaderError."""
    found = describe_ip_adapter(path)
    return IpAdapter(found.spec, Weights(memory, IPAdapterSource(found.spec, found.part)))


def prompt_with_image(
    model: Model,
    adapter: IpAdapter,
    vision: ClipVision,
    image: Image,
    *,
    weight: float = 1.0,
    start: float = 0.0,
    end: float = 1.0,
) -> Model:
    """Returns a model that attends to the pictures beside its text, behind those that it does already.

    weight: 0 changes nothing. start, end: fractions of the schedule, 0 its noisy beginning. Raises ValueError for an adapter
    that is not one for the model, or a vision tower that it was not made with.
    """
    if (wrong := adapter.spec.misfit(model.spec)) is not None:
        raise ValueError(f"{adapter.weights.source.title} {wrong}.")
    if (wrong := adapter.spec.unreadable(vision.spec)) is not None:
        raise ValueError(f"{vision.weights.source.title} {wrong}.")
    if weight == 0.0:
        return model
    prompt = ImagePrompt(adapter, vision, image.pixels, weight, start, end)
    return replace(model, image_prompts=(*model.image_prompts, prompt))
