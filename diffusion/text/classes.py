"""From a class to the condition of a network that is told classes by their numbers. Rombach et al. 2022, arXiv:2112.10752."""

from __future__ import annotations

import torch

from ..families.text_specs import ClassSpec
from ..types import Clip, Condition, Conditioning
from .encoders import run_encoder
from .tokens import Token


def class_spec(clip: Clip) -> ClassSpec:
    """Returns what is known of a network's classes. Raises ValueError for text encoders."""
    (spec, *_) = clip.spec.encoders
    if not isinstance(spec, ClassSpec):
        raise ValueError(f"{clip.weights.source.title} reads prompts, not classes; use TextEncode.")
    return spec


@torch.no_grad()
def encode_class(clip: Clip, number: int) -> Conditioning:
    """Returns a class as a condition of one token. Raises ValueError for a number that is none of the classes."""
    spec = class_spec(clip)
    if not 0 <= number < spec.vocab:
        raise ValueError(f"there is no class {number}; the network knows 0 to {spec.vocab - 1}.")
    with clip.weights.use() as models:
        states = run_encoder(models[spec.key], [(Token(number),)], spec, None).chosen
    return Conditioning((Condition(states.to("cpu", torch.float32)),))
