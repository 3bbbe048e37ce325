"""How much memory an autoencoder's pass takes beside its weights, so that a picture that is too large goes in tiles.

An estimate, not a measurement: it depends on sizes alone. Values a pixel: as in ComfyUI 0.8.0 (behaviour) for the autoencoder
of Stable Diffusion, which is 128 channels wide at full size.
"""

from __future__ import annotations

from ..families.autoencoders import KLSpec, PatchedKLSpec, VaeSpec, VQSpec
from ..networks.budget import gibibytes
from ..networks.exhaustion import Advice, Shortage
from ..types import Vae

ENCODE_VALUES, DECODE_VALUES = 1767, 2178
REFERENCE_WIDTH = 128
TILE = 512  # pixels


def encode_bytes(spec: VaeSpec, pixels: int, itemsize: int) -> int:
    """Returns what encoding a picture of so many pixels takes in numbers of `itemsize` bytes; 0 for kinds that take little."""
    return _bytes(spec, ENCODE_VALUES, pixels, itemsize)


def decode_bytes(spec: VaeSpec, pixels: int, itemsize: int) -> int:
    """Returns what decoding a picture takes; see `encode_bytes`."""
    return _bytes(spec, DECODE_VALUES, pixels, itemsize)


def tile_advice(vae: Vae, node: str) -> Advice:
    """Returns what says that an autoencoder needs less in tiles, by the node that does it."""

    def advice(shortage: Shortage) -> str:
        takes = decode_bytes(vae.spec, TILE * TILE, vae.weights.policy.vae.itemsize)
        return f"Use {node}: tiles of {TILE} pixels take about {gibibytes(takes)}; smaller tiles take less."

    return advice


def _bytes(spec: VaeSpec, values: int, pixels: int, itemsize: int) -> int:
    if not isinstance(spec, KLSpec | PatchedKLSpec | VQSpec):
        return 0
    return values * pixels * itemsize * spec.widths[0] // REFERENCE_WIDTH
