"""Picture sizes: what resizing makes of a width and a height, in whole pixels.

Loads no torch, so that a graph can be told its sizes before anything is computed; the functions that resize ask here too.
"""

from __future__ import annotations

import math
from typing import NamedTuple

CELL = 8  # pixels per latent cell along a side in most families; what an empty latent counts until it meets its model
MAX_SIDE = 16384  # pixels; the longest side that anything may ask for, as in ComfyUI

LEAST_EDGED_SIDE = 3  # pixels; of a picture whose edges are looked for, which is blurred over two pixels to each side


class Size(NamedTuple):
    """A size in pixels, or in latent cells where it is said."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


class Cut(NamedTuple):
    """A rectangle within a picture, or within a latent, whose sizes are cells."""

    left: int
    top: int
    size: Size

    @property
    def rows(self) -> slice:
        """Its rows, for tensors."""
        return slice(self.top, self.top + self.size.height)

    @property
    def columns(self) -> slice:
        """Its columns, for tensors."""
        return slice(self.left, self.left + self.size.width)


def cut(size: Size, *, x: int, y: int, width: int, height: int, least: int = 1) -> Cut:
    """Returns the part of a rectangle that lies within a size, begun so early that `least` of each side stays."""
    left, top = max(0, min(x, size.width - least)), max(0, min(y, size.height - least))
    return Cut(left, top, Size(min(width, size.width - left), min(height, size.height - top)))


def middle(size: Size, cell: int) -> Cut:
    """Returns what is left of a picture that is cut around its centre to whole latent cells."""
    whole = whole_cells(size, cell)
    return Cut((size.width - whole.width) // 2, (size.height - whole.height) // 2, whole)


def resized(size: Size, *, width: int, height: int, least: int = 1) -> Size:
    """Returns the size that is asked for, where a side of 0 follows from the other by the aspect; two keep the size.

    least: what both sides have at least where one of them follows.
    """
    if not (width or height):
        return size
    if not height:
        width = max(least, width)
        height = max(least, round(size.height * width / size.width))
    elif not width:
        height = max(least, height)
        width = max(least, round(size.width * height / size.height))
    return Size(width, height)


def scaled(size: Size, factor: float) -> Size:
    """Returns the size with both sides `factor` times as long, rounded, at least 1."""
    return Size(max(1, round(size.width * factor)), max(1, round(size.height * factor)))


def with_megapixels(size: Size, megapixels: float, *, multiple: int = 1) -> Size:
    """Returns a size of about `megapixels` * 2**20 pixels, the aspect kept but for sides that are multiples."""
    factor = math.sqrt(megapixels * 1024 * 1024 / (size.width * size.height)) / multiple
    return Size(*(max(1, round(side * factor)) * multiple for side in size))


KONTEXT_SIDES = (672, 688, 720, 752, 800, 832, 880, 944, 1024, 1104, 1184, 1248, 1328, 1392, 1456, 1504, 1568)
"""Widths of FLUX Kontext's training pictures, in pixels; the heights are the same in turn. As in FLUX's own code."""


def kontext_size(aspect: float) -> Size:
    """Returns the one of FLUX Kontext's sizes whose width by height is nearest to an aspect."""
    sizes = map(Size, KONTEXT_SIDES, reversed(KONTEXT_SIDES))
    return min(sizes, key=lambda size: (abs(aspect - size.width / size.height), size))


def cells_of(size: Size, cell: int) -> Size:
    """Returns how many whole latent cells of `cell` pixels a size in pixels has, at least 1 along a side."""
    return Size(max(1, size.width // cell), max(1, size.height // cell))


def check_sides(width: int, height: int, cell: int) -> None:
    """Raises ValueError for a picture, in pixels, that has not one whole latent cell."""
    if min(width, height) < cell:
        raise ValueError(f"cannot encode a picture of {width}x{height} pixels; its sides must be at least {cell}.")


ENLARGED = 4  # times as long become the sides of a picture that a network is shown to enlarge: a pixel is a cell of 4


def enlarged(size: Size, factor: float) -> Size:
    """Returns the size, in whole cells of `ENLARGED` pixels, that a network makes of a small picture by a factor."""
    cells = cells_of(scaled(size, factor), ENLARGED)
    return Size(ENLARGED * cells.width, ENLARGED * cells.height)


def whole_cells(size: Size, cell: int = CELL) -> Size:
    """Returns the size cut down to whole latent cells, still in pixels."""
    return Size(size.width // cell * cell, size.height // cell * cell)
