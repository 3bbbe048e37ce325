"""Upscale models as `networks.memory` loads them: spandrel's networks, told from their tensors' names and shapes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checkpoints.headers import HeaderError
from ..checkpoints.parts import Part
from ..networks.precision import NumericPolicy
from ..networks.reading import open_tensors
from ..networks.stored import StoredWeight
from ..networks.weight_source import OnePart
from .reading import CURE, EXPECTED

COLOURS = 3  # channels of the pictures that a model takes and gives


@dataclass(frozen=True, slots=True)
class UpscalerSource(OnePart):
    """The upscale model in a part of a file."""

    part: Part
    noun: ClassVar[str] = "upscale model"

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes it takes when loaded."""
        return self.part.values * policy.vae.itemsize

    def load(self, policy: NumericPolicy) -> Any:
        """Returns spandrel's ImageModelDescriptor with these weights. Raises HeaderError for a network that is none.

        It is computed as autoencoders are, and in float32 where the architecture can't be computed so.
        """
        with _without_torchvision():
            import spandrel
        (file,) = self.part.files
        with open_tensors(file) as tensors:
            state = {key: _widened(tensors.get(key)) for key in tensors.names()}
        try:
            model = spandrel.ModelLoader().load_from_state_dict(spandrel.canonicalize_state_dict(state))
        except spandrel.UnsupportedModelError:
            found = "a network of no architecture that spandrel knows"
            raise HeaderError(file.path, found, expected=EXPECTED, cure=CURE) from None
        except (RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise HeaderError(
                file.path, f"a broken network: {reason}", expected=EXPECTED, cure="Get it again."
            ) from error
        is_for_pictures = isinstance(model, spandrel.ImageModelDescriptor)
        if not is_for_pictures or (model.input_channels, model.output_channels) != (COLOURS, COLOURS):
            found = f"{model.architecture.name}, which does not turn pictures of {COLOURS} colours into such"
            raise HeaderError(file.path, found, expected=EXPECTED, cure=CURE)
        can = {torch.float32: True, torch.float16: model.supports_half, torch.bfloat16: model.supports_bfloat16}
        model.to(policy.device, policy.vae if can[policy.vae] else torch.float32)
        model.model.requires_grad_(False)
        return model.eval()


def _widened(weight: Tensor | StoredWeight) -> Tensor:
    """Returns a copy in float32, which leans on no file."""
    if isinstance(weight, StoredWeight):
        return weight.widened(torch.float32)
    return weight.to(torch.float32, copy=True) if weight.is_floating_point() else weight.clone()


@contextmanager
def _without_torchvision() -> Iterator[None]:
    """Lets spandrel be imported where torchvision is not installed.

    It imports it for an inpainting and a face-restoring network alone, and uses it only when one of them runs.
    """
    if "spandrel" in sys.modules or find_spec("torchvision") is not None:
        yield
        return
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    stand_ins = {name: ModuleType(name) for name in names}
    for name, module in stand_ins.items():
        module.__spec__ = ModuleSpec(name, None)
        module.__path__ = []
    stand_ins[names[-1]].__dict__.update(InterpolationMode=None, rotate=None, normalize=None)
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
