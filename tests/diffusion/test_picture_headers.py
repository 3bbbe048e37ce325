"""The size that a header tells is the size that the picture has once it is read."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image as Pillow

from latentgraph.diffusion.pictures.files import load_picture
from latentgraph.diffusion.pictures.headers import PictureError, read_picture_size
from latentgraph.diffusion.pictures.sizes import Size


def loaded_size(path: Path) -> Size:
    _, height, width, _ = load_picture(path).image.pixels.shape
    return Size(width, height)


def oriented(orientation: int) -> Pillow.Exif:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
def test_a_picture_of_any_format_is_measured(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"cat.{suffix}"
    Pillow.new("RGB", (7, 5)).save(path)
    assert read_picture_size(path) == Size(7, 5) == loaded_size(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
@pytest.mark.parametrize(("orientation", "size"), [(1, (7, 5)), (3, (7, 5)), (6, (5, 7)), (8, (5, 7))])
def test_the_cameras_rotation_counts(suffix: str, orientation: int, size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / f"cat.{suffix}"
    Pillow.new("RGB", (7, 5)).save(path, exif=oriented(orientation))
    assert read_picture_size(path) == size == loaded_size(path)


def test_a_rotation_that_stands_behind_the_pixels_of_a_png_counts(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    Pillow.new("RGB", (7, 5)).save(path)
    data, end = path.read_bytes()[:-12], path.read_bytes()[-12:]
    exif = oriented(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    path.write_bytes(data + chunk + end)
    assert read_picture_size(path) == Size(5, 7) == loaded_size(path)


def test_a_header_that_claims_too_many_pixels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    Pillow.new("RGB", (7, 5)).save(path)
    with pytest.raises(PictureError, match=r"too large \(1 times 7x5 pixels\); at most 34 pixels"):
        read_picture_size(path, max_pixels=34)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    with pytest.raises(PictureError, match=r"cat\.png is no picture that can be read: it is an SVG drawing"):
        read_picture_size(path)
