"""Files as answers: what a browser may show is shown in a sandbox, and everything else is for saving. A reader that takes
nothing for too long is cut off.
"""

from __future__ import annotations

import asyncio
from typing import BinaryIO
from urllib.parse import quote

from aiohttp import web

from ..files.content import RASTER, UNKNOWN
from .parts import parts_of
from .problems import Refusal

_CHUNK = 1 << 18
SANDBOX = "sandbox; default-src 'none'"
FOR_EVER = "private, max-age=31536000, immutable"
"""How long a browser may keep what never changes."""


async def send_file(
    request: web.Request, file: BinaryIO, *, name: str, media_type: str, size: int, sha256: str, download: bool = False
) -> web.StreamResponse:
    """Answers with an open file, which never changes, or the part of it that is asked for; closes it.

    media_type: what the file's bytes say. Only known raster pictures are sent as what they are.
    """
    try:
        shown = media_type in RASTER
        headers = {
            "Content-Type": media_type if shown else UNKNOWN,
            "Content-Disposition": disposition(name, attachment=download or not shown),
            "Content-Security-Policy": SANDBOX,
            "Cache-Control": FOR_EVER,
            "Accept-Ranges": "bytes",
            "ETag": f'"{sha256}"',
        }
        if is_known(request, sha256):
            return web.Response(status=304, headers={name: headers[name] for name in ("ETag", "Cache-Control")})
        begin, end = _range(request, size)
        response = web.StreamResponse(status=200 if (begin, end) == (0, size) else 206, headers=headers)
        response.content_length = end - begin
        if response.status == 206:
            response.headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        await response.prepare(request)
        if request.method != "HEAD":
            await _send(request, response, file, begin, end)
        return response
    finally:
        await asyncio.to_thread(file.close)


def send_picture(data: bytes, media_type: str, etag: str) -> web.Response:
    """Returns the answer with a picture that was made here and never changes."""
    headers = {"Content-Security-Policy": SANDBOX, "Cache-Control": FOR_EVER, "ETag": f'"{etag}"'}
    return web.Response(body=data, content_type=media_type, headers=headers)


def is_known(request: web.Request, etag: str) -> bool:
    """Returns whether who asks has it already."""
    return any(tag.value in (etag, "*") for tag in request.if_none_match or ())


async def write(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Writes to a reader; cuts off one that does not take what was sent before in time, with ConnectionResetError."""
    try:
        async with asyncio.timeout(parts_of(request).settings.write_seconds):
            await response.write(data)
    except TimeoutError as error:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the reader was too slow") from error


def disposition(name: str, *, attachment: bool) -> str:
    """Returns the header that tells how a file is shown and what it is saved as, whatever its name holds (RFC 6266)."""
    bare = name.rsplit("/", 1)[-1][:200]
    plain = "".join(char if char.isascii() and (char.isalnum() or char in "._- ") else "_" for char in bare)
    encoded = quote(bare, safe="", errors="replace")
    return f"{'attachment' if attachment else 'inline'}; filename=\"{plain}\"; filename*=UTF-8''{encoded}"


def _range(request: web.Request, size: int) -> tuple[int, int]:
    """Returns where the wanted part begins and ends; the whole for a Range that is none or that asks for several."""
    if "If-Range" in request.headers:
        return 0, size
    try:
        wanted = request.http_range
    except ValueError:
        return 0, size
    if wanted.start is None and wanted.stop is None:
        return 0, size
    begin = wanted.start or 0
    if begin < 0:
        begin = max(size + begin, 0)
    end = size if wanted.stop is None else min(wanted.stop, size)
    if begin >= end:
        raise Refusal(
            "bad-range",
            f"The file has {size:,} bytes; the range begins behind them.",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return begin, end


async def _send(request: web.Request, response: web.StreamResponse, file: BinaryIO, begin: int, end: int) -> None:
    await asyncio.to_thread(file.seek, begin)
    left = end - begin
    while left:
        chunk = await asyncio.to_thread(file.read, min(_CHUNK, left))
        if not chunk:
            raise ConnectionResetError("the file is shorter than it was")
        left -= len(chunk)
        await write(request, response, chunk)
