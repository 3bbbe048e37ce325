"""Pictures of one colour, and batches of pictures repeated and taken apart. As in ComfyUI 0.8.0 (behaviour)."""

from __future__ import annotations

import torch

from ..types import Image

WHITE = 0xFFFFFF


def solid_image(color: int, *, width: int, height: int, batch_size: int = 1) -> Image:
    """Returns pictures (batch_size, height, width, 3) of one colour, 0xRRGGBB. They take the memory of a pixel.

    Raises ValueError for what is no colour.
    """
    if not 0 <= color <= WHITE:
        raise ValueError(f"{color} is no colour; give 0xRRGGBB, from 0 to {WHITE:#x}.")
    pixel = torch.tensor([channel / 255 for channel in color.to_bytes(3)], dtype=torch.float32)
    return Image(pixel.expand(batch_size, height, width, 3))


def image_from_batch(image: Image, index: int, length: int = 1) -> Image:
    """Returns `length` pictures from `index` on, both limited to the batch."""
    if index < 0 or length < 1:
        raise ValueError(
            f"cannot take {length} pictures from number {index} on; give an index from 0, a length from 1."
        )
    start = min(index, len(image.pixels) - 1)
    return Image(image.pixels[start : start + length])


def repeat_image(image: Image, amount: int) -> Image:
    """Returns the whole batch `amount` times over."""
    if amount < 1:
        raise ValueError(f"cannot repeat pictures {amount} times; give 1 or more.")
    return Image(image.pixels.repeat(amount, 1, 1, 1))
