"""A denoising network with all that it is told beside the conditions of a run. Importing this module loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .sampling.options import SamplingOptions
from .types import Conditioning, ImagePrompt

if TYPE_CHECKING:
    from .families.specs import ModelSpec
    from .networks.memory import Weights
    from .sampling.guidance import Guidance, ListName


@dataclass(frozen=True, eq=False, slots=True)
class Model:
    """A denoising network: what it is, and a handle on its weights, which are read when they are first needed.

    options: what it asks of every run beside them. image_prompts: what it attends to beside text.
    """

    spec: ModelSpec
    weights: Weights
    options: SamplingOptions = SamplingOptions()
    image_prompts: tuple[ImagePrompt, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Guider:
    """A model with what it is told: lists of conditions, in the order in which they are evaluated, and how to join them."""

    model: Model
    lists: Mapping[ListName, Conditioning]
    rule: Guidance
