"""The table of families that files are compared with, whole."""

from __future__ import annotations

from .dit_families import DIT_FAMILIES
from .families import UNET_FAMILIES, Family
from .ldm_families import LDM_FAMILIES

FAMILIES: tuple[Family, ...] = (*LDM_FAMILIES, *UNET_FAMILIES, *DIT_FAMILIES)
