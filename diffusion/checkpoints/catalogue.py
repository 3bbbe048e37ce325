"""The table of families that files are compared with, whole."""

from __future__ import annotations

from .dit_families import DIT_FAMILIES
from .families import UNET_FAMILIES, Family

FAMILIES: tuple[Family, ...] = (*UNET_FAMILIES, *DIT_FAMILIES)
