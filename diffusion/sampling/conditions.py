"""Conditions told where, when and how strongly to hold, joined and mixed, as in ComfyUI 0.8.0 (behaviour).

Every function returns a new conditioning. What a run makes of these settings is `conditioning`'s affair.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..pictures.sizes import CELL
from ..types import (
    Area,
    ClipVisionOutput,
    Condition,
    Conditioning,
    Image,
    Latent,
    Mask,
    PicturePrompt,
    PictureSize,
    SmallPicture,
)


def combine(first: Conditioning, second: Conditioning) -> Conditioning:
    """Returns the conditions of both; their predictions are averaged by weight."""
    return Conditioning(first.entries + second.entries)


def concatenate(conditioning: Conditioning, following: Conditioning) -> Conditioning:
    """Returns the conditions, each with the tokens of the first condition of `following` behind its own."""
    tail = following.entries[0].embedding
    return conditioning.each(lambda entry: replace(entry, embedding=torch.cat([entry.embedding, tail], dim=1)))


def average(conditioning: Conditioning, other: Conditioning, *, weight: float) -> Conditioning:
    """Returns the conditions mixed with the first one of `other`: weight 1 is `conditioning` alone, 0 the other.

    The other is cut, or filled with zeros, to the length of each condition. The pooled vector is mixed where the other
    has one; a condition without one takes the other's.
    """
    second = other.entries[0]

    def mixed(entry: Condition) -> Condition:
        pooled = entry.pooled
        if second.pooled is not None:
            pooled = second.pooled if pooled is None else pooled * weight + second.pooled * (1.0 - weight)
        embedding = _fit_length(second.embedding, entry.embedding.shape[1])
        return replace(entry, embedding=entry.embedding * weight + embedding * (1.0 - weight), pooled=pooled)

    return conditioning.each(mixed)


def zero_out(conditioning: Conditioning) -> Conditioning:
    """Returns the conditions with zeros for their text: for a network, that nothing was said."""

    def zeroed(entry: Condition) -> Condition:
        pooled = None if entry.pooled is None else torch.zeros_like(entry.pooled)
        return replace(entry, embedding=torch.zeros_like(entry.embedding), pooled=pooled)

    return conditioning.each(zeroed)


def empty(width: int, pooled_width: int | None = None) -> Conditioning:
    """Returns a condition that says nothing to a network: zeros, as wide as its text; a network without text takes 0."""
    pooled = None if pooled_width is None else torch.zeros(1, pooled_width)
    return Conditioning((Condition(torch.zeros(1, 1, width), pooled=pooled),))


def set_area(
    conditioning: Conditioning, *, width: int, height: int, x: int = 0, y: int = 0, strength: float = 1.0
) -> Conditioning:
    """Returns the conditions limited to a rectangle, in pixels, rounded down to whole latent cells."""
    area = Area(height=height // CELL, width=width // CELL, y=y // CELL, x=x // CELL)
    return conditioning.each(lambda entry: replace(entry, area=area, strength=strength, mask_bounds=False))


def set_area_fraction(
    conditioning: Conditioning, *, width: float, height: float, x: float = 0.0, y: float = 0.0, strength: float = 1.0
) -> Conditioning:
    """Returns the conditions limited to a rectangle, in fractions of the picture's sides."""
    area = Area(height=height, width=width, y=y, x=x, unit="fraction")
    return conditioning.each(lambda entry: replace(entry, area=area, strength=strength, mask_bounds=False))


def set_strength(conditioning: Conditioning, strength: float) -> Conditioning:
    """Returns the conditions with another weight against those that hold with them."""
    return conditioning.each(lambda entry: replace(entry, strength=strength))


def set_mask(conditioning: Conditioning, mask: Mask, *, strength: float = 1.0, bounds: bool = False) -> Conditioning:
    """Returns the conditions weighted by a mask; `bounds` shows the network only the mask's bounding box."""
    return conditioning.each(
        lambda entry: replace(entry, mask=mask.values, mask_strength=strength, mask_bounds=bounds),
    )


def set_range(conditioning: Conditioning, *, start: float = 0.0, end: float = 1.0) -> Conditioning:
    """Returns the conditions limited to a part of the sampling, as fractions of the schedule (0 is the noisiest)."""
    return conditioning.each(lambda entry: replace(entry, start=start, end=end))


def set_picture_size(conditioning: Conditioning, size: PictureSize) -> Conditioning:
    """Returns the conditions with SDXL's size conditioning; other families do not look at it."""
    return conditioning.each(lambda entry: replace(entry, size=size))


def set_guidance(conditioning: Conditioning, guidance: float) -> Conditioning:
    """Returns the conditions with how strongly a network that was distilled to be told follows them."""
    return conditioning.each(lambda entry: replace(entry, guidance=guidance))


def add_reference(conditioning: Conditioning, latent: Latent) -> Conditioning:
    """Returns the conditions with one picture more to go by, for networks that were trained to look at some."""
    return conditioning.each(lambda entry: replace(entry, references=(*entry.references, latent.samples)))


def show_depth(conditioning: Conditioning, depth: Image) -> Conditioning:
    """Returns the conditions with how near things are: the brighter a picture is, the nearer."""
    channel = depth.pixels[..., :3].mean(dim=-1).unsqueeze(1)
    return conditioning.each(lambda entry: replace(entry, depth=channel))


def show_small_picture(conditioning: Conditioning, image: Image, *, noise: float = 0.0) -> Conditioning:
    """Returns the conditions with a picture to enlarge, and how much noise is mixed into it, 0..1."""
    small = SmallPicture(image.pixels[..., :3], noise)
    return conditioning.each(lambda entry: replace(entry, small=small))


def show_pictures(
    conditioning: Conditioning, pictures: ClipVisionOutput, *, strength: float = 1.0, noise: float = 0.0
) -> Conditioning:
    """Returns the conditions with what pictures show, beside those that they have; a strength of 0 leaves them as they are."""
    if strength == 0.0:
        return conditioning
    shown = PicturePrompt(pictures.image_embeds, strength=strength, noise=noise)
    return conditioning.each(lambda entry: replace(entry, pictures=(*entry.pictures, shown)))


def _fit_length(embedding: Tensor, length: int) -> Tensor:
    """(1, T, D) cut, or filled with zeros, to `length` tokens."""
    missing = max(0, length - embedding.shape[1])
    return torch.nn.functional.pad(embedding[:, :length], (0, 0, 0, missing))
