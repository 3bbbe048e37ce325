"""A better look at a latent that is still being denoised: by a tiny decoder of its family, where the user has one.

The files bear the names that they were published by (`taesd_decoder.safetensors`, ...), and lie in one folder. They change no
result, only how a run looks on the way, so a file that can't be used is told of once and left out.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ..checkpoints.headers import HeaderError
from ..checkpoints.opening import open_tiny_vae
from ..families.autoencoders import TINY_FORMATS, TinyFamily
from ..families.specs import LatentFormat
from ..networks.memory import MemoryBudgetError, WeightMemory
from ..types import Latent, Vae
from .autoencoder import decode
from .batches import to_vae_space
from .previews import preview_picture

MOST_CELLS = 32  # along a side: a preview of 256 pixels, which takes little beside a step of any network

_log = logging.getLogger(__name__)


class PreviewDecoders:
    """The tiny decoders of a folder, which are opened when they are first looked through. Safe to use from several threads."""

    def __init__(self, folder: Path, memory: WeightMemory) -> None:
        self._folder = folder
        self._memory = memory
        self._unusable: set[Path] = set()

    @torch.inference_mode()
    def picture(self, x: Tensor, latent_format: LatentFormat) -> Tensor:
        """Returns uint8 (h, w, 3) on the CPU, a picture of one latent, (C, h, w) in scaled-latent units.

        By the family's tiny decoder if there is one, of at most `MOST_CELLS` cells a side; else as `preview_picture` does it.
        """
        family = _family(latent_format)
        path = None if family is None else self._find(family)
        if family is not None and path is not None and x.isfinite().all():
            try:
                return _decoded(open_tiny_vae(path, None, self._memory, family=family), x, latent_format)
            except (HeaderError, OSError, MemoryBudgetError) as error:
                self._unusable.add(path)
                _log.warning("previews are rough: %s", error)
        return preview_picture(x, latent_format)

    def _find(self, family: TinyFamily) -> Path | None:
        name = TINY_FORMATS[family].name
        named = (self._folder / each for each in (f"{name}_decoder.safetensors", f"{name}.safetensors", name))
        return next((path for path in named if path.exists() and path not in self._unusable), None)


def _family(latent_format: LatentFormat) -> TinyFamily | None:
    """Returns whose tiny autoencoder speaks latents of this format, or None."""
    wanted = (latent_format.channels, latent_format.scale, latent_format.shift)
    return next((family for family, known in TINY_FORMATS.items() if known[1:] == wanted), None)


def _decoded(vae: Vae, x: Tensor, latent_format: LatentFormat) -> Tensor:
    z = to_vae_space(x.float().cpu()[None], latent_format)
    longest = max(z.shape[-2:])
    if longest > MOST_CELLS:
        sides = [max(1, round(side * MOST_CELLS / longest)) for side in z.shape[-2:]]
        z = functional.interpolate(z, sides, mode="area")
    return (decode(vae, Latent(z)).pixels[0] * 255.0).to(torch.uint8)
