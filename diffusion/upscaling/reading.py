"""Whether a file can be an upscale model, from its header alone; which one it is, spandrel tells once its weights are read."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ..checkpoints.headers import read_header
from ..checkpoints.parts import Part, find_part
from ..checkpoints.refusals import refuse_others
from ..checkpoints.strangers import UPSCALER

EXPECTED = "an upscale model"
CURE = "Name the file of an ESRGAN, SwinIR, HAT or the like."
NEEDS_PACKAGE = 'needs the package spandrel; install it with `pip install "latentgraph[upscale]"`'


class MissingPackageError(ValueError):
    """A package that only some nodes need is not installed; the message says how to install it."""


def can_upscale() -> bool:
    """Returns whether the package is installed that knows the architectures of upscale models."""
    return find_spec("spandrel") is not None


def describe_upscaler(path: Path | str) -> Part:
    """Returns where an upscale model's tensors are. Raises HeaderError for a file that is none."""
    path = Path(path)
    header = read_header(path)
    refuse_others(path, [header], [UPSCALER], expected=EXPECTED, cure=CURE)
    return find_part([header], "")
