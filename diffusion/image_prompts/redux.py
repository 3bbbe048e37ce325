"""Style models as `networks.memory` loads them, and pictures put behind a prompt as text."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from torch import nn

from ..checkpoints.parts import Part
from ..layouts.keymaps import Origin, Origins, check_origins
from ..networks.filling import Conversion, fill
from ..networks.memory import WeightMemory, Weights
from ..networks.precision import NumericPolicy
from ..networks.weight_source import OnePart
from ..types import ClipVisionOutput, Conditioning, StyleModel
from .redux_reading import StyleSpec, describe_style


@dataclass(frozen=True, slots=True)
class StyleSource(OnePart):
    """The style model in a part of a file."""

    spec: StyleSpec
    part: Part
    noun: ClassVar[str] = "style model"

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes it takes when loaded."""
        return self.part.bytes(policy.transformer.itemsize)

    def load(self, policy: NumericPolicy) -> nn.Module:
        """Returns diffusers' ReduxImageEncoder with these weights."""
        with torch.device("meta"):
            network: nn.Module = ReduxImageEncoder(self.spec.picture_width, self.spec.text_width)
        fill(network, self.part, _origins, Conversion(policy.device, policy.transformer))
        return network


def open_style(path: Path | str, memory: WeightMemory) -> StyleModel:
    """Returns the style model of a file, its weights still on disk. Raises HeaderError."""
    found = describe_style(path)
    return StyleModel(found.spec, Weights(memory, StyleSource(found.spec, found.part)))


@torch.inference_mode()
def say_with_pictures(
    conditioning: Conditioning, style: StyleModel, pictures: ClipVisionOutput, *, strength: float = 1.0
) -> Conditioning:
    """Returns the conditions with the pictures' tokens, times `strength`, behind those of their text.

    Raises ValueError where the text, or what the tower says, is of another width than the style model's.
    """
    spec, states = style.spec, pictures.last_hidden
    title = style.weights.source.title
    if states.shape[-1] != spec.picture_width:
        raise ValueError(
            f"{title} reads tokens of {spec.picture_width} numbers, but the pictures' have {states.shape[-1]}."
        )
    for entry in conditioning.entries:
        if (width := entry.embedding.shape[-1]) != spec.text_width:
            raise ValueError(f"{title} speaks of {spec.text_width} numbers a token, but the text has {width}.")
    with style.weights.use() as network:
        weight = next(network.parameters())
        tokens = network(states.to(weight.device, weight.dtype)).image_embeds
    tokens = tokens.flatten(0, 1).unsqueeze(0).to("cpu", torch.float32) * strength
    return conditioning.each(lambda entry: replace(entry, embedding=torch.cat([entry.embedding, tokens], dim=1)))


def _origins(wanted: Iterable[str], present: Collection[str]) -> Origins:
    return check_origins({key: Origin(key) for key in wanted}, present)
