"""A function of pictures, applied tile by tile and joined without seams, so that memory does not grow with the picture.

Knows nothing of what the function does; positions, ramps and order are those of ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce

import torch
from torch import Tensor

OnProgress = Callable[[float], None]
"""Called with the fraction that is done, after each piece of the work; it may raise to cancel."""


def tiled_scale(
    x: Tensor,
    function: Callable[[Tensor], Tensor],
    *,
    tile_width: int,
    tile_height: int,
    overlap: int,
    scale: float = 1.0,
    on_tile: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Returns function(x), (B, C', H * scale, W * scale), where the function sees one tile of one item at a time.

    x: (B, C, H, W). function: (1, C, h, w) -> (1, C', h * scale, w * scale). Tiles overlap by `overlap` lines of x,
    where they fade into each other. on_tile: called after each tile with how many are done and how many there are; it
    may raise to cancel.
    """
    for name, side in (("tile_width", tile_width), ("tile_height", tile_height)):
        if not 0 <= overlap < side:
            raise ValueError(f"overlap is {overlap} and {name} is {side}; the overlap must be smaller than the tile.")
    tiles = [
        (slice(top, top + height), slice(left, left + width))
        for top, height in _stretches(x.shape[2], tile_height, overlap)
        for left, width in _stretches(x.shape[3], tile_width, overlap)
    ]
    done, joined = 0, []
    for item in x.unsqueeze(1):
        join = _Join(x.shape[2:], scale=scale, overlap=overlap if len(tiles) > 1 else 0)
        for rows, columns in tiles:
            join.add(function(item[..., rows, columns]), rows.start, columns.start)
            done += 1
            if on_tile is not None:
                on_tile(done, len(x) * len(tiles))
        joined.append(join.mean())
    return torch.cat(joined)


def tiled_mean(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    passes: tuple[tuple[int, int], ...],
    overlap: int,
    scale: float,
    on_progress: OnProgress | None,
) -> Tensor:
    """Returns the mean of one `tiled_scale` for each tile of (width, height), so that no tile's border shows."""

    def one_pass(number: int) -> Tensor:
        def on_tile(done: int, tiles: int) -> None:
            if on_progress is not None:
                on_progress((number + done / tiles) / len(passes))

        width, height = passes[number]
        return tiled_scale(
            x, function, tile_width=width, tile_height=height, overlap=overlap, scale=scale, on_tile=on_tile
        )

    return reduce(torch.add, map(one_pass, range(len(passes)))) / len(passes)


def edge_ramp(length: int, ramp: int, *, at_start: bool = True, at_end: bool = True) -> Tensor:
    """Returns (length,) weights: 1 in the middle, and k/ramp on the k-th line from an end that fades."""
    weights = torch.ones(length)
    for t in range(min(ramp, length)):
        weights[t] *= (t + 1) / ramp if at_start else 1.0
        weights[length - 1 - t] *= (t + 1) / ramp if at_end else 1.0
    return weights


class _Join:
    """The weighted mean of tiles of one item; a tile's weight falls towards its edges, the outer ones included."""

    def __init__(self, sides: torch.Size, *, scale: float, overlap: int) -> None:
        self._scale, self._ramp = scale, round(scale * overlap)
        self._height, self._width = (round(side * scale) for side in sides)
        self._sum: Tensor | None = None
        self._weights: Tensor | None = None

    def add(self, y: Tensor, top: int, left: int) -> None:
        if self._sum is None or self._weights is None:
            self._sum = y.new_zeros((1, y.shape[1], self._height, self._width))
            self._weights = y.new_zeros((1, 1, self._height, self._width))
        h, w = y.shape[2:]
        fade_h, fade_w = (edge_ramp(side, self._ramp if self._ramp < side else 0) for side in (h, w))
        weight = (fade_h.unsqueeze(-1) * fade_w).to(y)
        top, left = round(top * self._scale), round(left * self._scale)
        self._sum[..., top : top + h, left : left + w] += y * weight
        self._weights[..., top : top + h, left : left + w] += weight

    def mean(self) -> Tensor:
        if self._sum is None or self._weights is None:
            raise ValueError("no tile was added.")
        return self._sum / self._weights


def _stretches(side: int, tile: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Start and length of each tile along a side."""
    starts = range(0, side - overlap, tile - overlap) if side > tile else [0]
    for start in starts:
        start = max(0, min(side - overlap, start))
        yield start, min(tile, side - start)
