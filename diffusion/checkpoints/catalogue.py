"""The table of families that files are compared with, whole."""

from __future__ import annotations

from .dit_families import DIT_FAMILIES
from .families import UNET_FAMILIES, Family
from .ldm_families import LDM_FAMILIES
from .text_specs import ClipSpec

FAMILIES: tuple[Family, ...] = (*LDM_FAMILIES, *UNET_FAMILIES, *DIT_FAMILIES)


def holds_text(clip: ClipSpec) -> bool:
    """Returns whether checkpoints of a family hold these text encoders of it, or they always have files of their own."""
    kept = [{layout.key for layout in row.text.encoders} for row in FAMILIES if row.name == clip.family]
    return any({encoder.key for encoder in clip.encoders} <= keys for keys in kept)
