"""Reading picture files of every kind that people have, and of kinds that they should not."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from latentgraph.diffusion.pictures.files import load_mask, load_picture, make_grid, to_8bit
from latentgraph.diffusion.pictures.headers import PictureError, read_picture_size
from latentgraph.diffusion.types import Image

RED, HALF_BLUE = (255, 0, 0, 255), (0, 0, 255, 128)


def rgba(width: int = 3, height: int = 2) -> Pillow.Image:
    """Red and opaque, but for a half transparent blue pixel at the top left."""
    picture = Pillow.new("RGBA", (width, height), RED)
    picture.putpixel((0, 0), HALF_BLUE)
    return picture


def test_an_opaque_picture_has_an_empty_mask_of_its_size(tmp_path: Path) -> None:
    rgba().convert("RGB").save(tmp_path / "a.png")
    image, mask = load_picture(tmp_path / "a.png")
    assert image.pixels.shape == (1, 2, 3, 3)
    assert image.pixels[0, 0].tolist() == [[0, 0, 1], [1, 0, 0], [1, 0, 0]]
    assert torch.equal(mask.values, torch.zeros(1, 2, 3))


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_transparency_goes_into_the_mask_and_leaves_the_colour(suffix: str, tmp_path: Path) -> None:
    rgba().save(tmp_path / f"a.{suffix}", **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    image, mask = load_picture(tmp_path / f"a.{suffix}")
    assert image.pixels[0, 0, 0].tolist() == [0, 0, 1]
    assert mask.values[0].tolist() == [[pytest.approx(1 - 128 / 255), 0, 0], [0, 0, 0]]


def test_a_transparent_palette_colour_is_masked(tmp_path: Path) -> None:
    palette = rgba().convert("RGB").quantize(2)
    palette.save(tmp_path / "a.png", transparency=palette.getpixel((0, 0)))
    assert load_picture(tmp_path / "a.png").mask.values[0].tolist() == [[1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    suffix = "jpg" if mode in ("CMYK", "YCbCr") else "png"
    Pillow.new("RGB", (4, 4), (255, 255, 255)).convert(mode).save(tmp_path / f"a.{suffix}")
    assert float(load_picture(tmp_path / f"a.{suffix}").image.pixels.min()) == 1.0


def test_pixels_of_no_known_white_are_refused(tmp_path: Path) -> None:
    Pillow.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "a.tiff")
    for read in (load_picture, read_picture_size):
        with pytest.raises(
            PictureError, match=r"a\.tiff: its pixels are floating-point numbers\. Save it with 8 or 16"
        ):
            read(tmp_path / "a.tiff")


def test_16_bits_are_scaled_to_8(tmp_path: Path) -> None:
    Pillow.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert (load_picture(tmp_path / "a.png").image.pixels[0, 0, :, 0] * 255).round().tolist() == [0, 100, 255]
    assert (load_mask(tmp_path / "a.png", channel="red").values[0, 0] * 255).round().tolist() == [0, 100, 255]


def test_a_photo_is_turned_upright(tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6  # the camera was turned a quarter to the right
    rgba(3, 2).convert("RGB").save(tmp_path / "a.png", exif=exif)
    image, mask = load_picture(tmp_path / "a.png")
    assert image.pixels.shape == (1, 3, 2, 3)
    assert mask.values.shape == (1, 3, 2)
    assert image.pixels[0, 0, 1].tolist() == [0, 0, 1]


def test_an_animation_is_a_batch(tmp_path: Path) -> None:
    frames = [Pillow.new("RGB", (4, 3), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    image, mask = load_picture(tmp_path / "a.gif")
    assert image.pixels[:, 0, 0].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert mask.values.shape == (3, 3, 4)
    assert load_mask(tmp_path / "a.gif", channel="green").values.shape == (1, 3, 4)


def test_frames_of_another_size_are_left_out(tmp_path: Path) -> None:
    Pillow.new("RGB", (4, 3)).save(
        tmp_path / "a.tiff", save_all=True, append_images=[Pillow.new("RGB", (5, 3)), Pillow.new("RGB", (4, 3))]
    )
    assert load_picture(tmp_path / "a.tiff").image.pixels.shape == (2, 3, 4, 3)


def test_only_the_first_view_of_a_stereo_photo_is_read(tmp_path: Path) -> None:
    Pillow.new("RGB", (4, 3)).save(
        tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[Pillow.new("RGB", (4, 3))]
    )
    assert load_picture(tmp_path / "a.jpg").image.pixels.shape == (1, 3, 4, 3)


@pytest.mark.parametrize(("channel", "value"), [("alpha", 1 - 128 / 255), ("red", 0.0), ("green", 0.0), ("blue", 1.0)])
def test_a_mask_is_read_from_any_channel(channel: Any, value: float, tmp_path: Path) -> None:
    rgba().save(tmp_path / "a.png")
    mask = load_mask(tmp_path / "a.png", channel=channel)
    assert mask.values.shape == (1, 2, 3)
    assert float(mask.values[0, 0, 0]) == pytest.approx(value)


def test_an_unknown_channel_is_answered_with_a_near_one(tmp_path: Path) -> None:
    channel: Any = "alfa"
    with pytest.raises(ValueError, match=r"unknown channel 'alfa'\. Did you mean 'alpha'"):
        load_mask(tmp_path / "a.png", channel=channel)


def test_a_file_is_judged_by_its_bytes(tmp_path: Path) -> None:
    rgba().save(tmp_path / "picture.txt", format="PNG")
    assert load_picture(tmp_path / "picture.txt").image.pixels.shape == (1, 2, 3, 3)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "it is empty"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "it is an SVG drawing"),
        (b"%PDF-1.7 and so on", r"it begins with b'%PDF-1.7 and so '"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it begins with b'%!PS-Adobe"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_it_is(content: bytes, found: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=rf"a\.png is no picture that can be read: {found}.*Expected .*PNG"):
        load_picture(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tiff", "bmp"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_an_error_that_names_it(suffix: str, part: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(noise).save(buffer, {"jpg": "JPEG"}.get(suffix, suffix.upper()))
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(buffer.getvalue()[: int(part * len(buffer.getvalue()))])
    with pytest.raises(PictureError, match=rf"cut\.{suffix}"):
        load_picture(path)


def test_a_file_that_is_not_there_is_the_usual_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_picture(tmp_path / "none.png")


def test_too_many_pixels_are_refused_with_numbers_before_they_are_decoded(tmp_path: Path) -> None:
    frames = [Pillow.new("L", (40, 30), level) for level in (0, 1, 2)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(PictureError, match=r"too large \(3 times 40x30 pixels\); at most 3000 pixels"):
        load_picture(tmp_path / "a.gif", max_pixels=3000)
    with pytest.raises(PictureError, match=r"too large"):
        load_mask(tmp_path / "a.gif", channel="red", max_pixels=3000)


def test_a_small_file_that_unpacks_to_a_huge_picture_is_refused(tmp_path: Path) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, b"IDAT")]
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(PictureError, match=r"bomb\.png: too large \(.*3600000000 pixels"):
        load_picture(tmp_path / "bomb.png")


def test_8_bit_values_are_cut_off_as_in_the_reference(image_ops: dict[str, Any]) -> None:
    values, wanted = image_ops["SaveImage 8-bit of"]
    assert to_8bit(torch.tensor(values)).tolist() == wanted


def test_values_that_are_no_numbers_have_8_bits_too() -> None:
    assert to_8bit(torch.tensor([torch.nan, torch.inf, -torch.inf])).tolist() == [0, 255, 0]


def test_every_8_bit_value_survives_a_round_trip() -> None:
    levels = np.arange(256, dtype=np.uint8)
    assert to_8bit(torch.from_numpy(levels.astype(np.float32) / 255.0)).tolist() == levels.tolist()


def test_a_grid_lays_pictures_in_rows() -> None:
    pictures = Image(torch.tensor([0.1, 0.2, 0.3]).reshape(3, 1, 1, 1).expand(3, 1, 1, 3))
    sheet = make_grid([pictures], columns=2, gap=1, background=(1.0, 0.0, 0.5))
    assert sheet.pixels.shape == (1, 3, 3, 3)
    red = torch.tensor([[0.1, 1.0, 0.2], [1.0, 1.0, 1.0], [0.3, 1.0, 1.0]])
    torch.testing.assert_close(sheet.pixels[0, :, :, 0], red)
    assert sheet.pixels[0, 2, 2].tolist() == [1.0, 0.0, 0.5]


@pytest.mark.parametrize(
    ("count", "columns", "shape"), [(1, None, (1, 1)), (5, None, (2, 3)), (9, None, (3, 3)), (2, 5, (1, 2))]
)
def test_a_grid_is_about_as_wide_as_high(count: int, columns: int | None, shape: tuple[int, int]) -> None:
    assert make_grid([Image(torch.zeros(count, 1, 1, 4))], columns=columns).pixels.shape == (1, *shape, 4)


def test_a_grid_of_unequal_pictures_is_refused_with_their_sizes() -> None:
    with pytest.raises(ValueError, match="found 5x4 with 3 channels, 8x6 with 3 channels"):
        make_grid([Image(torch.zeros(1, 4, 5, 3)), Image(torch.zeros(1, 6, 8, 3))])
    with pytest.raises(ValueError, match="found none"):
        make_grid([])
