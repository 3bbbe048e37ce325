"""Thumbnails: small, made once, and made of nothing that is too large or no picture."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any, BinaryIO

import pytest
from PIL import Image

from latentgraph.server.errors import DamagedFile, FileTooLarge
from latentgraph.server.files import thumbnails as module
from latentgraph.server.files.thumbnails import Thumbnails


@pytest.fixture
async def thumbnails() -> AsyncIterator[Thumbnails]:
    thumbnails = Thumbnails()
    yield thumbnails
    thumbnails.close()


class Picture:
    """A picture that counts how often it is read."""

    def __init__(self, size: tuple[int, int], mode: str = "RGB", form: str = "PNG", **options: Any) -> None:
        made = io.BytesIO()
        Image.new(mode, size, options.pop("color", "red")).save(made, form, **options)
        self.data, self.reads = made.getvalue(), 0

    def __call__(self) -> BinaryIO:
        self.reads += 1
        return io.BytesIO(self.data)


def read(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=["WEBP"]) as picture:
        picture.load()
        return picture


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 320), (256, 128)), ((100, 300), (85, 256)), ((30, 20), (30, 20)), ((3000, 1), (256, 1))],
)
async def test_a_picture_is_fitted_and_never_enlarged(
    thumbnails: Thumbnails, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    small = read(await thumbnails.of("a", 256, Picture(size)))
    assert small.size == expected
    assert small.convert("RGB").getpixel((0, 0)) == pytest.approx((255, 0, 0), abs=6)


@pytest.mark.parametrize(
    ("mode", "form"), [("RGBA", "PNG"), ("P", "GIF"), ("L", "PNG"), ("RGB", "JPEG"), ("CMYK", "JPEG")]
)
async def test_any_kind_of_raster_picture_is_taken(thumbnails: Thumbnails, mode: str, form: str) -> None:
    assert read(await thumbnails.of("a", 128, Picture((500, 250), mode, form, color=None))).size == (128, 64)


async def test_transparency_stays_and_a_turned_photograph_stands_upright(thumbnails: Thumbnails) -> None:
    clear = read(await thumbnails.of("a", 128, Picture((500, 250), "RGBA", color=(9, 9, 9, 0))))
    assert clear.convert("RGBA").getpixel((5, 5))[3] == 0  # type: ignore[index]
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read(await thumbnails.of("b", 128, Picture((500, 250), form="JPEG", exif=exif))).size == (64, 128)


async def test_each_is_made_once_even_for_many_who_ask_at_once(thumbnails: Thumbnails) -> None:
    picture = Picture((400, 400))
    asked = [asyncio.create_task(thumbnails.of("a", 128, picture)) for _ in range(8)]
    asked[0].cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    await thumbnails.of("a", 128, picture)
    assert picture.reads == 1
    await thumbnails.of("a", 256, picture)
    assert picture.reads == 2


async def test_those_asked_for_longest_ago_go_first() -> None:
    pictures = {name: Picture((64, 64)) for name in "abc"}
    thumbnails = Thumbnails(kept_bytes=2 * len(await Thumbnails().of("a", 64, pictures["a"])))
    for name in "abacbc":
        await thumbnails.of(name, 64, pictures[name])
    assert [pictures[name].reads for name in "abc"] == [2, 2, 1]
    thumbnails.close()


async def test_what_can_not_be_decoded_or_is_too_large_is_refused_each_time(
    thumbnails: Thumbnails, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Picture((64, 64))
    broken.data = broken.data[:60]
    for _ in range(2):
        with pytest.raises(DamagedFile):
            await thumbnails.of("a", 64, broken)
    assert broken.reads == 2
    monkeypatch.setattr(module, "MAX_PIXELS", 64 * 64)
    with pytest.raises(FileTooLarge, match="65 x 64 pixels has no thumbnail"):
        await thumbnails.of("b", 64, Picture((65, 64)))
