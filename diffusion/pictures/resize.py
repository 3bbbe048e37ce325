"""Pictures and latents at other sizes.

The methods' details (half-pixel centres, no antialiasing, 8-bit Lanczos, the crop's rounding) are those of
ComfyUI 0.8.0 (behaviour), because a graph's pixels depend on them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor
from torch.nn.functional import interpolate

from ..names import CropName, ResizeMethod, unknown_name
from ..types import Image, Latent, Mask
from .sizes import Size, middle, resized, scaled, with_megapixels


def resize_image(
    image: Image, *, width: int, height: int, method: ResizeMethod = "lanczos", crop: CropName = "disabled"
) -> Image:
    """Returns the pictures at `width` x `height` pixels. A side of 0 keeps the aspect; two keep the size."""
    size = resized(_size(image), width=width, height=height)
    pixels = resize(image.pixels.movedim(-1, 1), width=size.width, height=size.height, method=method, crop=crop)
    return Image(pixels.movedim(1, -1))


def crop_to_cells(image: Image, cell: int) -> Image:
    """Returns the pictures cropped around the centre to sides that are multiples of `cell` pixels."""
    kept = middle(_size(image), cell)
    return Image(image.pixels.contiguous()[:, kept.rows, kept.columns])


def scale_image(image: Image, factor: float, *, method: ResizeMethod = "lanczos") -> Image:
    """Returns the pictures with both sides `factor` times as long, rounded to whole pixels."""
    size = scaled(_size(image), factor)
    return resize_image(image, width=size.width, height=size.height, method=method)


def resize_image_to_megapixels(
    image: Image, *, megapixels: float, multiple: int = 1, method: ResizeMethod = "lanczos"
) -> Image:
    """Returns the pictures with about `megapixels` * 2**20 pixels, the aspect kept but for sides that are multiples."""
    size = with_megapixels(_size(image), megapixels, multiple=multiple)
    return resize_image(image, width=size.width, height=size.height, method=method)


def resize_mask(
    mask: Mask, *, width: int, height: int, method: ResizeMethod = "bilinear", crop: CropName = "disabled"
) -> Mask:
    """Returns the masks at `width` x `height` pixels, as `resize_image` does with pictures; values stay in 0..1."""
    resized_mask = resize_image(Image(mask.values.unsqueeze(-1)), width=width, height=height, method=method, crop=crop)
    return Mask(resized_mask.pixels.squeeze(-1).clamp(0.0, 1.0))


def resize_latent(
    latent: Latent, *, width: int, height: int, method: ResizeMethod = "bislerp", crop: CropName = "disabled"
) -> Latent:
    """Returns the latents at `width` x `height` cells. A side of 0 keeps the aspect; two keep the size.

    The noise mask stays as it is: sampling fits it to the latent.
    """
    h, w = latent.samples.shape[-2:]
    size = resized(Size(w, h), width=width, height=height, least=8)
    samples = resize(latent.samples, width=size.width, height=size.height, method=method, crop=crop)
    return replace(latent, samples=samples)


def resize(x: Tensor, *, width: int, height: int, method: ResizeMethod, crop: CropName = "disabled") -> Tensor:
    """Returns x, (B, C, H, W), as (B, C, height, width).

    crop: "center" first cuts x to the new aspect, "disabled" stretches it. bicubic may leave the range of x. lanczos
    is for pictures: x in 0..1 with 1, 3 or 4 channels (RGBA is resized premultiplied), result a multiple of 1/255.
    bislerp is for latents: it interpolates directions and lengths of the channel vectors apart.
    """
    if width < 1 or height < 1:
        raise ValueError(f"cannot resize to {width}x{height}; both sides must be at least 1.")
    if crop == "center":
        x = _crop_to_aspect(x, width=width, height=height)
    elif crop != "disabled":
        raise unknown_name("crop", crop, get_args(CropName))
    if method == "bislerp":
        return _bislerp(x, width=width, height=height)
    if method == "lanczos":
        return _lanczos(x, width=width, height=height)
    if method not in get_args(ResizeMethod):
        raise unknown_name("resize method", method, get_args(ResizeMethod))
    return interpolate(x, size=(height, width), mode=method)


def _size(image: Image) -> Size:
    h, w = image.pixels.shape[1:3]
    return Size(w, h)


def _crop_to_aspect(x: Tensor, *, width: int, height: int) -> Tensor:
    h, w = x.shape[-2:]
    old, new = w / h, width / height
    dx = min(round((w - w * (new / old)) / 2), (w - 1) // 2) if old > new else 0  # a pixel or two are always left
    dy = min(round((h - h * (old / new)) / 2), (h - 1) // 2) if old < new else 0
    return x[..., dy : h - dy, dx : w - dx]


def _lanczos(x: Tensor, *, width: int, height: int) -> Tensor:
    resized = []
    for item in (255.0 * x.movedim(1, -1)).clip(0, 255).to(torch.uint8).cpu().numpy():  # truncates, as saving does
        picture = Pillow.fromarray(item.squeeze(-1) if item.shape[-1] == 1 else item)
        pixels = np.asarray(picture.resize((width, height), Pillow.Resampling.LANCZOS), dtype=np.float32) / 255.0
        resized.append(torch.from_numpy(pixels).reshape(height, width, -1).movedim(-1, 0))
    return torch.stack(resized).to(x.device)


def _bislerp(x: Tensor, *, width: int, height: int) -> Tensor:
    x = _bislerp_last_side(x.float(), width)
    return _bislerp_last_side(x.transpose(2, 3), height).transpose(2, 3).contiguous()


def _bislerp_last_side(x: Tensor, length: int) -> Tensor:
    ramp = torch.arange(x.shape[-1], dtype=torch.float32, device=x.device).reshape(1, 1, 1, -1)
    position = interpolate(ramp, size=(1, length), mode="bilinear").flatten()
    following = interpolate((ramp + 1).clamp(max=x.shape[-1] - 1), size=(1, length), mode="bilinear").flatten()
    return _slerp(x[..., position.long()], x[..., following.long()], position - position.floor())


def _slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Turns channel vectors (dimension 1) from a to b by the fraction t, while their lengths change linearly.

    Nearly parallel vectors give a, nearly opposite ones are mixed linearly: neither has a plane to turn in.
    """
    a_length, b_length = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    a_unit = torch.where(a_length == 0, 0.0, a / a_length)
    b_unit = torch.where(b_length == 0, 0.0, b / b_length)
    cosine = (a_unit * b_unit).sum(1, keepdim=True)
    omega = cosine.clamp(-1.0, 1.0).acos()
    turned = (torch.sin((1.0 - t) * omega) / omega.sin()) * a_unit + (torch.sin(t * omega) / omega.sin()) * b_unit
    turned = turned * (a_length * (1.0 - t) + b_length * t)
    turned = torch.where(cosine > 1 - 1e-5, a, turned)
    return torch.where(cosine < 1e-5 - 1, a * (1.0 - t) + b * t, turned)
