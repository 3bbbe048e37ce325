"""Latents as the tokens that transformers see, their places, and the way back.

A latent whose sides are no whole tokens is continued around its edge, as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Tokens(NamedTuple):
    """A latent as tokens, (B, rows * columns, patch * patch * C): within a token channels are slowest."""

    values: Tensor
    rows: int
    columns: int


def whole_tokens(x: Tensor, patch: int) -> Tensor:
    """Returns x with its sides continued around the edge to multiples of a patch."""
    missing_rows, missing_columns = (-side % patch for side in x.shape[-2:])
    if not (missing_rows or missing_columns):
        return x
    return functional.pad(x, (0, missing_columns, 0, missing_rows), mode="circular")


def tokens_of(x: Tensor, patch: int) -> Tokens:
    """Returns a latent, (B, C, h, w), as tokens of patch x patch cells."""
    x = whole_tokens(x, patch)
    batch, channels, h, w = x.shape
    rows, columns = h // patch, w // patch
    x = x.reshape(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5)
    return Tokens(x.reshape(batch, rows * columns, channels * patch**2), rows, columns)


def latent_of(values: Tensor, picture: Tokens, patch: int) -> Tensor:
    """Returns the latent of the picture's tokens, which come first."""
    rows, columns = picture.rows, picture.columns
    x = values[:, : rows * columns]
    batch, channels = len(x), x.shape[-1] // patch**2
    x = x.reshape(batch, rows, columns, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(batch, channels, rows * patch, columns * patch)


def token_places(part: Tokens, *, first: int = 0, corner: tuple[int, int] = (0, 0)) -> Tensor:
    """Returns the places of tokens, float32 (rows * columns, 3): `first`, row and column, counted from a corner."""
    places = torch.full((part.rows, part.columns, 3), float(first))
    places[..., 1] = torch.arange(part.rows)[:, None] + corner[0]
    places[..., 2] = torch.arange(part.columns) + corner[1]
    return places.flatten(0, 1)


def free_corners(references: Sequence[Tokens]) -> list[tuple[int, int]]:
    """Returns where each of several references begins: right of or below those before it, whichever grows the whole less."""
    rows = columns = 0
    corners = []
    for part in references:
        corner = (0, columns) if part.rows + rows > part.columns + columns else (rows, 0)
        rows, columns = max(rows, corner[0] + part.rows), max(columns, corner[1] + part.columns)
        corners.append(corner)
    return corners
