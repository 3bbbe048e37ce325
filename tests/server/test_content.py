"""What a file is, by its bytes, and how large a picture claims to be."""

from __future__ import annotations

import io

import pytest

from latentgraph.server.errors import DamagedFile
from latentgraph.server.files.content import RASTER, Content, media_type, read_content

from .web_fakes import pillow_picture, png


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_raster_picture_is_known_with_its_size(kind: str) -> None:
    assert read_content(io.BytesIO(pillow_picture(kind))) == Content(f"image/{kind.lower()}", 24, 16)


@pytest.mark.parametrize(
    "options",
    [
        {"progressive": True},
        {"exif": b"Exif\0\0" + b"MM\0*\0\0\0\x08\0\0"},
        {"icc_profile": b"x" * 200_000},
        {"quality": 1},
    ],
)
def test_the_size_of_a_jpeg_stands_behind_whatever_comes_first(options: dict[str, object]) -> None:
    assert read_content(io.BytesIO(pillow_picture("JPEG", **options))) == Content("image/jpeg", 24, 16)


@pytest.mark.parametrize("options", [{"lossless": True}, {"lossless": False}, {"exif": b"MM\0*\0\0\0\x08\0\0"}])
def test_the_size_of_a_webp_is_read_from_each_of_its_forms(options: dict[str, object]) -> None:
    assert read_content(io.BytesIO(pillow_picture("WEBP", **options))) == Content("image/webp", 24, 16)


TYPES = {
    b"": "application/octet-stream",
    b"\0\0\0\0": "application/octet-stream",
    b"hello": "text/plain",
    "\ufeff  <SVG>".encode(): "image/svg+xml",
    b"<?xml version='1.0'?><svg>": "image/svg+xml",
    b"  <!DOCTYPE HTML>": "text/html",
    b"text with a <script>": "text/html",
    b"<a/>": "application/xml",
    b"PK\x03\x04": "application/zip",
    b"\x80\x05\x95": "application/x-pickle",
    b"\x08\0\0\0\0\0\0\0{}": "application/x-safetensors",
    b"\0\0\0\0\0\0\0\xff{}": "application/octet-stream",
    b"\0\0\0\x1cftypavif": "image/avif",
    b"%PDF-1.7": "application/pdf",
    b"BM\0\0": "image/bmp",
    "caf\u00e9".encode()[:-1]: "text/plain",
    b"caf\xe9 and more text": "application/octet-stream",
}


@pytest.mark.parametrize("data", TYPES)
def test_a_file_is_what_its_bytes_say(data: bytes) -> None:
    assert media_type(data) == TYPES[data]


def test_nothing_but_raster_pictures_is_ever_shown() -> None:
    assert {"image/gif", "image/jpeg", "image/png", "image/webp"} == RASTER


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_picture_that_is_cut_anywhere_is_damaged_or_still_has_its_size(kind: str) -> None:
    data = pillow_picture(kind)
    for length in range(12, min(len(data), 400)):
        try:
            found = read_content(io.BytesIO(data[:length]))
        except DamagedFile:
            continue
        assert found == Content(f"image/{kind.lower()}", 24, 16)


def test_a_header_that_claims_no_pixels_is_damaged() -> None:
    with pytest.raises(DamagedFile, match="0 x 5 pixels"):
        read_content(io.BytesIO(png(claim=(0, 5))))
