"""The table of families that files are compared with, whole."""

from __future__ import annotations

from .ldm import LDM_FAMILIES
from .specs import Family
from .stable_diffusion import UNET_FAMILIES
from .text_joins import ClipSpec
from .transformers import DIT_FAMILIES

FAMILIES: tuple[Family, ...] = (*LDM_FAMILIES, *UNET_FAMILIES, *DIT_FAMILIES)


def holds_text(clip: ClipSpec) -> bool:
    """Returns whether single files of a family hold these text encoders of it, or they always have files of their own."""
    kept = [
        {layout.key for layout in row.text.encoders if layout.prefixes} for row in FAMILIES if row.name == clip.family
    ]
    return any({encoder.key for encoder in clip.encoders} <= keys for keys in kept)
