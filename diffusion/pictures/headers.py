"""What a picture file is, from its first bytes: opened safely and measured without decoding a pixel.

Raster formats only: nothing that is a program (SVG, PostScript). A file is judged by its bytes, never by its name. This
module loads no torch; `pictures` decodes what is opened here.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as Pillow

from .sizes import Size

MAX_PIXELS = 178_956_970  # all frames of a file together; beyond so many Pillow itself opens no picture
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error)  # from decoders
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


class PictureError(ValueError):
    """A file that cannot be read as a picture."""


def read_picture_size(path: Path, *, max_pixels: int = MAX_PIXELS) -> Size:
    """Returns the size that the picture has once the camera's rotation (EXIF) is applied.

    Raises PictureError for what is no picture, and for one of more than `max_pixels` or of floating-point numbers.
    """
    with path.open("rb") as file, open_picture(file, path) as picture:
        try:
            check_format(picture, path)
            check_pixels(picture, path, max_pixels=max_pixels)
            size = Size(*picture.size)
            return Size(size.height, size.width) if _orientation(picture, file) in _SIDEWAYS else size
        except PictureError:
            raise
        except DAMAGE as error:
            raise damaged(path, error) from error


def open_picture(file: BinaryIO, path: Path) -> Pillow.Image:
    """Returns the picture in an open file, not decoded yet. Raises PictureError; `path` is for its message."""
    Pillow.init()
    try:
        return Pillow.open(file, formats=[name for name in _FORMATS if name in Pillow.OPEN])
    except Pillow.DecompressionBombError as error:
        claimed = re.search(r"\d+", str(error))  # Pillow says it before it says the size
        raise _too_large(path, f"{claimed[0] if claimed else 'very many'} pixels", MAX_PIXELS) from error
    except UnidentifiedImageError as error:
        file.seek(0)
        head = file.read(512)
        if kind := _kind(head):
            raise PictureError(f"{path}: the picture ({kind}) is damaged or incomplete; get it again.") from error
        raise PictureError(
            f"{path} is no picture that can be read: it {_describe(head)}. Expected {', '.join(_FORMATS)}."
        ) from error
    except DAMAGE as error:
        raise damaged(path, error) from error


def frame_count(picture: Pillow.Image) -> int:
    """Returns how many frames a picture has; the second view of a stereo camera's file does not count."""
    return 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)


def check_format(picture: Pillow.Image, path: Path) -> None:
    """Raises PictureError for a picture in floating-point numbers: it does not say which of them is white."""
    if picture.mode == "F":
        raise PictureError(f"{path}: its pixels are floating-point numbers. Save it with 8 or 16 bits a channel.")


def check_pixels(picture: Pillow.Image, path: Path, *, max_pixels: int) -> None:
    """Raises PictureError if all frames together claim more than `max_pixels`."""
    width, height = picture.size
    count = frame_count(picture)
    if width * height * count > max_pixels:
        raise _too_large(path, f"{count} times {width}x{height} pixels", max_pixels)


def damaged(path: Path, error: Exception) -> PictureError:
    """Returns the error for a picture that its decoder gave up on."""
    return PictureError(f"{path}: the picture is damaged or incomplete ({error}).")


def _too_large(path: Path, found: str, max_pixels: int) -> PictureError:
    return PictureError(f"{path}: too large ({found}); at most {max_pixels} pixels are read. Make the picture smaller.")


def _kind(head: bytes) -> str | None:
    """Returns the format that first bytes are of, by Pillow's own tests; None for no picture."""
    for name in _FORMATS:
        accepts = Pillow.OPEN[name][1] if name in Pillow.OPEN else None
        if accepts and accepts(head[:16]) is True:
            return name
    return None


def _describe(head: bytes) -> str:
    if not head:
        return "is empty"
    return "is an SVG drawing" if b"<svg" in head.lower() else f"begins with {head[:16]!r}"


def _orientation(picture: Pillow.Image, file: BinaryIO) -> int:
    """Returns the EXIF orientation, as far as Pillow has not applied it to the size, which it does to a TIFF's.

    And Pillow would decode a whole PNG to find one that stands behind the pixels.
    """
    if picture.format == "TIFF":
        return 1
    if picture.format != "PNG" or "exif" in picture.info or "Raw profile type exif" in picture.info:
        exif = picture.getexif()
    else:
        exif = Pillow.Exif()
        exif.load(_png_exif(file))
    orientation = exif.get(ExifTags.Base.Orientation, 1)
    return orientation if isinstance(orientation, int) else 1


def _png_exif(file: BinaryIO) -> bytes:
    """Returns the eXIf chunk of a PNG, or nothing."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            return file.read(length)
        file.seek(length + 4, 1)
    return b""
