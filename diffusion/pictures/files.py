"""Picture files read into tensors, and tensors made ready for picture files.

`headers` decides what is a picture that may be read; this module decodes it.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageOps
from torch import Tensor

from ..names import ChannelName, unknown_name
from ..types import Image, Mask
from .headers import DAMAGE, MAX_PIXELS, PictureError, check_format, check_pixels, damaged, frame_count, open_picture
from .sizes import Size, middle


class LoadedPicture(NamedTuple):
    """The frames of a file as one batch, and where they are transparent (1 is fully transparent)."""

    image: Image
    mask: Mask


def load_picture(path: Path, *, multiple_of: int = 1, max_pixels: int = MAX_PIXELS) -> LoadedPicture:
    """Returns the file's frames as RGB (B, H, W, 3), values k/255, and their masks (B, H, W).

    multiple_of: both are cut around the centre to sides that are multiples of it.

    The camera's rotation (EXIF) is applied, transparency goes into the mask only, and integer pictures of more than 8
    bits are scaled to 8. Frames of another size than the first are left out. As in ComfyUI 0.8.0 (behaviour), except
    that the mask of an opaque picture is zeros of the picture's size, not of 64 x 64: a mask that fits nothing would
    fail wherever it is composited or cropped.
    """
    pixels, masks = [], []
    for frame in _frames(path, max_pixels=max_pixels):
        rgba = frame.convert("RGBA")
        pixels.append(_unit(rgba.convert("RGB")))
        masks.append(1.0 - _unit(rgba.getchannel("A")))
    image, mask = torch.stack(pixels), torch.stack(masks)
    kept = middle(Size(image.shape[2], image.shape[1]), multiple_of)
    return LoadedPicture(Image(image[:, kept.rows, kept.columns]), Mask(mask[:, kept.rows, kept.columns]))


def load_mask(path: Path, *, channel: ChannelName, max_pixels: int = MAX_PIXELS) -> Mask:
    """Returns one channel of the first frame as a mask (1, H, W), values k/255; transparent pixels are 1 in "alpha"."""
    if channel not in get_args(ChannelName):
        raise unknown_name("channel", channel, get_args(ChannelName))
    with closing(_frames(path, max_pixels=max_pixels)) as frames:
        frame = next(frames).convert("RGBA")
    values = _unit(frame.getchannel(channel[0].upper())).unsqueeze(0)
    return Mask(1.0 - values if channel == "alpha" else values)


def to_8bit(x: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Returns 255 x as uint8: clamped to 0..255, the fraction cut off, NaN as 0. As in ComfyUI 0.8.0 (behaviour)."""
    return (255.0 * x.float()).nan_to_num(nan=0.0).clamp(0.0, 255.0).to(torch.uint8).cpu().numpy()


def make_grid(
    images: Sequence[Image],
    *,
    columns: int | None = None,
    gap: int = 0,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Image:
    """Returns all pictures of all batches on one sheet (1, H, W, C), in rows from the top left.

    columns: pictures in a row; None makes the sheet about as wide as high. gap: pixels between pictures. background:
    RGB in 0..1 of the gaps and of places left over (opaque, if the pictures have alpha).
    """
    shapes = sorted({tuple(image.pixels.shape[1:]) for image in images})
    if len(shapes) != 1:
        found = ", ".join(f"{w}x{h} with {c} channels" for h, w, c in shapes) or "none"
        raise ValueError(f"a grid takes pictures of one size; found {found}. Resize or crop them first.")
    pictures = torch.cat([image.pixels for image in images])
    columns = min(len(pictures), columns or math.ceil(math.sqrt(len(pictures))))
    if columns < 1 or gap < 0:
        raise ValueError(f"columns is {columns} and gap is {gap}; expected at least 1 and 0.")
    rows = -(-len(pictures) // columns)
    ((h, w, c),) = shapes
    sheet = torch.tensor([*background, 1.0][:c]).repeat(1, rows * (h + gap) - gap, columns * (w + gap) - gap, 1)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        sheet[0, top : top + h, left : left + w] = picture
    return Image(sheet)


def _frames(path: Path, *, max_pixels: int) -> Generator[Pillow.Image]:
    """The frames of the first one's size: decoded, upright and of 8 bits a channel."""
    with path.open("rb") as file, open_picture(file, path) as picture:
        try:
            check_format(picture, path)
            check_pixels(picture, path, max_pixels=max_pixels)
            size = picture.size
            for i in range(frame_count(picture)):
                picture.seek(i)
                if picture.size == size:  # not decoded otherwise, so that the limit holds for every frame
                    yield _upright_8bit(picture)
        except PictureError:
            raise
        except DAMAGE as error:
            raise damaged(path, error) from error


def _upright_8bit(picture: Pillow.Image) -> Pillow.Image:
    frame = ImageOps.exif_transpose(picture)
    if frame.mode.startswith("I"):  # 16 and 32 bits; converting them as they are would clip at 255
        frame = frame.convert("I").point(lambda value: value * (1 / 255))
        frame.info.pop("transparency", None)  # names a level from before the scaling
    return frame


def _unit(frame: Pillow.Image) -> Tensor:
    return torch.from_numpy(np.asarray(frame, dtype=np.float32) / 255.0)
