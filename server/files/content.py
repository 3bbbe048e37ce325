"""What a file is, by its bytes: never by its name, and never by what a client says of it.

No pixel is decoded and nothing is unpacked: a picture's size is what its header claims, read in a bounded number of small
steps. Knows nothing of HTTP.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from ..errors import DamagedFile

UNKNOWN = "application/octet-stream"
HEAD_BYTES = 512
"""How many bytes of a file tell its type."""

_MAX_SEGMENTS = 10_000
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x1f\x8b", "application/gzip"),
    (b"%PDF-", "application/pdf"),
    (b"\x80\x02", "application/x-pickle"),
    (b"\x80\x03", "application/x-pickle"),
    (b"\x80\x04", "application/x-pickle"),
    (b"\x80\x05", "application/x-pickle"),
)


@dataclass(frozen=True, slots=True)
class Content:
    """A file's media type and, for a raster picture whose header is read, its size in pixels as stored."""

    type: str
    width: int | None = None
    height: int | None = None

    @property
    def pixels(self) -> int:
        """How many pixels the header claims; 0 for what is no picture."""
        return (self.width or 0) * (self.height or 0)


def media_type(head: bytes) -> str:
    """Returns the media type of a file by its first HEAD_BYTES; application/octet-stream for what is not known."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return "image/avif"
    if len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 1 << 40:
        return "application/x-safetensors"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None) or _text_type(head)


def read_content(file: BinaryIO) -> Content:
    """Returns what an open file is. Raises DamagedFile for a raster picture whose header can't be read."""
    file.seek(0)
    kind = media_type(file.read(HEAD_BYTES))
    read_size = _SIZES.get(kind)
    if read_size is None:
        return Content(kind)
    file.seek(0)
    try:
        width, height = read_size(file)
    except (struct.error, IndexError) as error:
        raise DamagedFile(f"the picture ({kind}) is damaged or incomplete; its header ends too early") from error
    if width <= 0 or height <= 0:
        raise DamagedFile(f"the picture ({kind}) is damaged: its header says {width} x {height} pixels")
    return Content(kind, width, height)


def _text_type(head: bytes) -> str:
    """Returns the type of a text. Whatever a browser might take for a program is named as such."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # the last character may be cut in two
            return UNKNOWN
        text = head[: error.start].decode("utf-8-sig", "replace")
    if "\0" in text:
        return UNKNOWN
    begin = text.lstrip().lower()
    if "<svg" in begin:
        return "image/svg+xml"
    if begin.startswith(("<!doctype html", "<html", "<head", "<body", "<script", "<iframe")) or "<script" in begin:
        return "text/html"
    if begin.startswith("<"):
        return "application/xml"
    return "text/plain" if begin else UNKNOWN


def _png_size(file: BinaryIO) -> tuple[int, int]:
    length, name, width, height = struct.unpack(">I4sII", file.read(24)[8:])
    if name != b"IHDR" or length != 13:
        raise DamagedFile("the picture (image/png) is damaged: it does not begin with its header")
    return width, height


def _gif_size(file: BinaryIO) -> tuple[int, int]:
    width, height = struct.unpack("<HH", file.read(10)[6:])
    return width, height


def _jpeg_size(file: BinaryIO) -> tuple[int, int]:
    file.seek(2)
    for _ in range(_MAX_SEGMENTS):
        marker, length = struct.unpack(">HH", file.read(4))
        if marker < 0xFF01 or length < 2:
            break
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            _, height, width = struct.unpack(">BHH", file.read(5))
            return width, height
        file.seek(length - 2, 1)
    raise DamagedFile("the picture (image/jpeg) is damaged: no frame header was found in it")


def _webp_size(file: BinaryIO) -> tuple[int, int]:
    head = file.read(30)
    kind = head[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8L":
        bits = struct.unpack("<I", head[21:25])[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", head[26:30])
    if kind != b"VP8 ":
        raise DamagedFile("the picture (image/webp) is damaged: it does not begin with its header")
    return width & 0x3FFF, height & 0x3FFF


_SIZES: Mapping[str, Callable[[BinaryIO], tuple[int, int]]] = {
    "image/png": _png_size,
    "image/jpeg": _jpeg_size,
    "image/gif": _gif_size,
    "image/webp": _webp_size,
}

RASTER = frozenset(_SIZES)
"""The picture types that are taken as uploads and shown inline: a decoder draws them, and no browser runs them."""
