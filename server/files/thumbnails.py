"""Thumbnails: small versions of pictures, for pages that show many. Made in one thread, kept in memory within bounds.

What they are made of never changes, so one that is kept is right for ever. Knows neither jobs nor HTTP.
"""

from __future__ import annotations

import asyncio
import io
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from ..errors import DamagedFile, FileTooLarge

MEDIA_TYPE = "image/webp"
MAX_PIXELS = 32_000_000
"""Of a picture that a thumbnail is made of: decoded it takes four bytes each."""

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_KEPT_BYTES = 32 << 20
_QUALITY = 82


class Thumbnails:
    """The thumbnails that were made. It belongs to one event loop."""

    def __init__(self, kept_bytes: int = _KEPT_BYTES) -> None:
        self._room = kept_bytes
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._made: dict[tuple[str, int], asyncio.Future[bytes]] = {}
        self._pool = ThreadPoolExecutor(1, "thumbnails")

    def close(self) -> None:
        """Begins no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def of(self, sha256: str, side: int, open_picture: Callable[[], BinaryIO]) -> bytes:
        """Returns a picture as WebP, fitted into a square of `side` pixels and never enlarged.

        sha256: of the picture, so that each is made once. open_picture: called in a thread. Raises what it raises, FileTooLarge
        for a picture of more than MAX_PIXELS, and DamagedFile for what can't be decoded.
        """
        key = (sha256, side)
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return kept
        if key not in self._made:
            loop = asyncio.get_running_loop()
            self._made[key] = loop.run_in_executor(self._pool, lambda: _make(open_picture, side))
            self._made[key].add_done_callback(lambda made: self._keep(key, made))
        return await asyncio.shield(self._made[key])

    def _keep(self, key: tuple[str, int], made: asyncio.Future[bytes]) -> None:
        self._made.pop(key, None)
        if made.cancelled() or made.exception() is not None:
            return
        self._kept[key] = made.result()
        self._room -= len(made.result())
        while self._room < 0:
            self._room += len(self._kept.popitem(last=False)[1])


def _make(open_picture: Callable[[], BinaryIO], side: int) -> bytes:
    from PIL import Image, ImageOps  # a server that shows no page needs none

    with open_picture() as file:
        try:
            with Image.open(file, formats=_FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    words = f"a picture of {picture.width} x {picture.height} pixels has no thumbnail"
                    raise FileTooLarge("pixels", f"{words}; at most {MAX_PIXELS:,} pixels are read for one")
                picture.draft("RGB", (2 * side, 2 * side))  # a JPEG is decoded at a fraction of its size
                small = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
                small.thumbnail((side, side), reducing_gap=2.0)
                ImageOps.exif_transpose(small, in_place=True)
                made = io.BytesIO()
                small.save(made, "WEBP", quality=_QUALITY)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DamagedFile(f"the picture can't be decoded: {type(error).__name__}") from error
    return made.getvalue()
