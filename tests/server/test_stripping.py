"""Metadata is taken out of pictures, and nothing else is."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import pytest
from PIL import Image, ImageOps, PngImagePlugin

from latentgraph.server.errors import DamagedFile
from latentgraph.server.files.stripping import orientation, without_metadata

from .web_fakes import pillow_picture, png

SECRET = b"where I live"


def exif(upright: int = 1) -> bytes:
    made = Image.Exif()
    made[0x010E] = SECRET.decode()
    made[0x0112] = upright
    return made.tobytes()


def told(kind: str) -> bytes:
    """Returns a picture that tells a secret in every way that its format has."""
    options: dict[str, Any] = {"exif": exif()}
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text("Comment", SECRET.decode())
        info.add_itxt("XML:com.adobe.xmp", SECRET.decode())
        options["pnginfo"] = info
    elif kind == "JPEG":
        options |= {"comment": SECRET, "xmp": SECRET, "progressive": True}
    elif kind == "WEBP":
        options["xmp"] = SECRET
    else:
        options = {"comment": SECRET}
    return pillow_picture(kind, **options)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_secrets_go_and_pixels_stay(kind: str) -> None:
    data = told(kind)
    assert SECRET in data
    stripped = without_metadata(data, f"image/{kind.lower()}")
    assert SECRET not in stripped
    before, after = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(stripped))
    assert (after.format, after.mode, after.tobytes()) == (before.format, before.mode, before.tobytes())
    assert not after.getexif()
    assert without_metadata(stripped, f"image/{kind.lower()}") == stripped


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("upright", range(1, 9))
def test_which_side_is_up_is_kept(kind: str, upright: int) -> None:
    data = pillow_picture(kind, exif=exif(upright))
    stripped = without_metadata(data, f"image/{kind.lower()}")
    assert SECRET not in stripped
    before, after = (ImageOps.exif_transpose(Image.open(io.BytesIO(one))) for one in (data, stripped))
    assert (after.size, after.tobytes()) == (before.size, before.tobytes())


def test_frames_transparency_and_colours_stay() -> None:
    frames = [Image.new("RGBA", (8, 8), (index * 40, 0, 0, 128)) for index in range(4)]
    for kind in ("PNG", "GIF", "WEBP"):
        file = io.BytesIO()
        options: dict[str, Any] = {"icc_profile": b"profile" * 20} if kind != "GIF" else {"comment": SECRET}
        frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=70, loop=3, **options)
        before = Image.open(file)
        after = Image.open(io.BytesIO(without_metadata(file.getvalue(), f"image/{kind.lower()}")))
        assert getattr(after, "n_frames", 1) == getattr(before, "n_frames", 1)
        assert after.info.get("loop") == before.info.get("loop")
        assert after.info.get("icc_profile") == before.info.get("icc_profile")
        for index in range(getattr(before, "n_frames", 1)):
            before.seek(index)
            after.seek(index)
            assert after.tobytes() == before.tobytes()
            assert after.info.get("duration") == before.info.get("duration")


def test_what_hangs_behind_the_end_goes() -> None:
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        stripped = without_metadata(pillow_picture(kind) + SECRET, f"image/{kind.lower()}")
        assert SECRET not in stripped


def test_a_png_whose_exif_is_no_exif_is_kept_upright() -> None:
    for body in (b"", b"II", b"MM\0*\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", exif(9), b"x" * 40):
        stripped = without_metadata(png(2, 2, (b"eXIf", body)), "image/png")
        assert b"eXIf" not in stripped


def test_orientation_is_read_in_both_orders() -> None:
    for order, mark in ((">", b"MM"), ("<", b"II")):
        told = mark + struct.pack(order + "HIHHHIHH", 42, 8, 1, 0x0112, 3, 1, 6, 0) + b"\0" * 4
        assert orientation(told) == 6
        assert orientation(told[:12]) == 1


def test_damage_at_random_is_damage_or_nothing_worse() -> None:
    chance = random.Random(3)
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        data = told(kind)
        for _ in range(400):
            broken = bytearray(data[: chance.randrange(len(data))] if chance.random() < 0.5 else data)
            for _ in range(chance.randrange(4)):
                if broken:
                    broken[chance.randrange(len(broken))] = chance.randrange(256)
            try:
                without_metadata(bytes(broken), f"image/{kind.lower()}")
            except DamagedFile:
                continue


def test_a_type_that_is_not_known_is_refused() -> None:
    with pytest.raises(DamagedFile, match="can't be taken out of image/tiff"):
        without_metadata(b"II*\0", "image/tiff")


def test_checksums_of_what_is_added_are_right() -> None:
    stripped = without_metadata(png(2, 2, (b"eXIf", exif(6))), "image/png")
    at = stripped.index(b"eXIf")
    length = struct.unpack(">I", stripped[at - 4 : at])[0]
    body = stripped[at : at + 4 + length]
    assert struct.unpack(">I", stripped[at + 4 + length : at + 8 + length])[0] == zlib.crc32(body)
