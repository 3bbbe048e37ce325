"""Pictures cut, joined, blended, blurred and sharpened. As in ComfyUI 0.8.0 (behaviour).

Alpha is kept as it is where colours alone are meant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from ..latents.batches import fit_batch
from ..names import BlendMode, ResizeMethod
from ..types import Image
from .resize import resize
from .sizes import Size, cut

SHARPNESS = 10.0  # how much an amount of 1 takes of the blurred picture


def crop_image(image: Image, *, x: int, y: int, width: int, height: int) -> Image:
    """Returns a rectangle of the pictures; what would lie outside is left off, but a pixel always stays."""
    h, w = image.pixels.shape[1:3]
    kept = cut(Size(w, h), x=x, y=y, width=width, height=height)
    return Image(image.pixels[:, kept.rows, kept.columns])


def invert_image(image: Image) -> Image:
    """Returns the negative of the pictures."""
    colours, alpha = image.pixels[..., :3], image.pixels[..., 3:]
    return Image(torch.cat([1.0 - colours, alpha], dim=-1))


def join_images(first: Image, second: Image) -> Image:
    """Returns one batch of both: the second ones cut and resized to the first ones' size, opaque if those have alpha alone."""
    h, w = first.pixels.shape[1:3]
    channels = max(first.pixels.shape[-1], second.pixels.shape[-1])
    a, b = (functional.pad(each.pixels, (0, channels - each.pixels.shape[-1]), value=1.0) for each in (first, second))
    return Image(torch.cat([a, _resized(b, width=w, height=h, method="bilinear")]))


def blend_images(image: Image, other: Image, *, amount: float, mode: BlendMode) -> Image:
    """Returns the pictures mixed with what a mode makes of them and others: amount 0 is the pictures, 1 the mode alone.

    The others are cut and resized to their size, and repeated over their batch.
    """
    below = image.pixels[..., :3]
    h, w = below.shape[1:3]
    above = fit_batch(_resized(other.pixels[..., :3], width=w, height=h, method="bicubic"), len(below))
    mixed = (below * (1.0 - amount) + _MODES[mode](below, above) * amount).clamp(0.0, 1.0)
    return Image(torch.cat([mixed, image.pixels[..., 3:]], dim=-1))


def blur_image(image: Image, *, radius: int, sigma: float) -> Image:
    """Returns the pictures blurred by a Gaussian that is seen `radius` pixels far; sigma: its width, in radii.

    Raises ValueError for pictures without so many pixels to reflect at their edges.
    """
    return Image(_filtered(image.pixels, _gaussian(radius, sigma)))


def sharpen_image(image: Image, *, radius: int, sigma: float, amount: float) -> Image:
    """Returns the pictures less `SHARPNESS` * amount of what `blur_image` makes of them, as bright as before, in 0..1."""
    kernel = _gaussian(radius, sigma) * -(amount * SHARPNESS)
    kernel[radius, radius] += 1.0 - kernel.sum()
    return Image(_filtered(image.pixels, kernel).clamp(0.0, 1.0))


def _resized(pixels: Tensor, *, width: int, height: int, method: ResizeMethod) -> Tensor:
    if pixels.shape[1:3] == (height, width):
        return pixels
    return resize(pixels.movedim(-1, 1), width=width, height=height, method=method, crop="center").movedim(1, -1)


def _gaussian(radius: int, sigma: float) -> Tensor:
    at = torch.linspace(-1, 1, 2 * radius + 1)
    kernel = torch.exp(-(at[:, None] ** 2 + at**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def _filtered(pixels: Tensor, kernel: Tensor) -> Tensor:
    """Returns (B, H, W, C) with each channel filtered by itself, reflected at the edges."""
    edge = kernel.shape[0] // 2
    h, w = pixels.shape[1:3]
    if min(h, w) <= edge:
        raise ValueError(f"pictures of {w}x{h} pixels can't be seen over a radius of {edge}; give a smaller one.")
    x = functional.pad(pixels.movedim(-1, 1), (edge,) * 4, mode="reflect")
    channels = x.shape[1]
    weight = kernel.to(x).repeat(channels, 1, 1).unsqueeze(1)
    return functional.conv2d(x, weight, groups=channels).movedim(1, -1)


def _screen(a: Tensor, b: Tensor) -> Tensor:
    return 1.0 - (1.0 - a) * (1.0 - b)


def _soft_light(a: Tensor, b: Tensor) -> Tensor:
    curve = torch.where(a <= 0.25, ((16.0 * a - 12.0) * a + 4.0) * a, a.clamp(min=0.0).sqrt())
    return torch.where(b <= 0.5, a - (1.0 - 2.0 * b) * a * (1.0 - a), a + (2.0 * b - 1.0) * (curve - a))


_MODES: Mapping[BlendMode, Callable[[Tensor, Tensor], Tensor]] = {
    "normal": lambda a, b: b,
    "multiply": lambda a, b: a * b,
    "screen": _screen,
    "overlay": lambda a, b: torch.where(a <= 0.5, 2.0 * a * b, 1.0 - 2.0 * (1.0 - a) * (1.0 - b)),
    "soft_light": _soft_light,
    "difference": lambda a, b: a - b,
}
