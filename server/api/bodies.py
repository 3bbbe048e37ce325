"""Bodies of requests, read within bounds of size, time and shape. Nothing is decompressed, and no part is kept in memory whole
but for small fields.

Whoever sends slower than the slowest rate, or more than is taken, is refused while it still sends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError

from latentgraph.graph import InvalidWorkflow

from .parts import parts_of
from .problems import Refusal
from .reading import read_json
from .routing import JSON, MULTIPART
from .settings import Settings

_INLINE_BYTES = 32_768  # what is parsed faster than a thread is woken
_YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")
_FIELD_BYTES = 8_192


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a multipart body: its field's name, the name and type that the client gave, and its bytes as they come."""

    name: str
    filename: str | None
    media_type: str
    chunks: AsyncIterator[bytes]


def form_of(request: web.Request) -> str:
    """Returns what form a body has: "json", "yaml", "multipart" or another media type as it was given."""
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Refusal("unsupported-encoding", f"The body is encoded as {encoding[:40]!r}; send it as it is.")
    kind = request.content_type
    if kind == JSON or (kind.startswith("application/") and kind.endswith("+json")):
        return "json"
    if kind in _YAML_TYPES:
        return "yaml"
    return "multipart" if kind == MULTIPART else kind


def refuse_form(request: web.Request, *expected: str) -> Refusal:
    """Returns the refusal of a body that has none of the forms that are taken."""
    found = request.headers.get("Content-Type", "nothing")[:80]
    return Refusal("unsupported-type", f"The body's Content-Type says {found!r}; expected {' or '.join(expected)}.")


async def chunks_of(request: web.Request, limit: int) -> AsyncIterator[bytes]:
    """Yields a body as it comes, up to a limit in bytes. Raises Refusal for one that is larger, or too slow."""
    settings = parts_of(request).settings
    if (request.content_length or 0) > limit:
        raise too_large(request.content_length, limit)
    received = 0
    pace = _Pace(settings)
    while True:
        async with pace.of(received):
            chunk = await request.content.readany()
        if not chunk:
            return
        received += len(chunk)
        if received > limit:
            raise too_large(None, limit)
        yield chunk


async def read_bytes(request: web.Request, limit: int) -> bytes:
    """Returns a whole body of bounded size."""
    return b"".join([chunk async for chunk in chunks_of(request, limit)])


async def read_json_body(request: web.Request) -> Any:
    """Returns the tree of a JSON body. Raises Refusal, with the place, for what is none."""
    return await tree_of(request, await read_bytes(request, parts_of(request).settings.body_bytes))


async def tree_of(request: web.Request, data: bytes) -> Any:
    """Returns the tree of a JSON text that came with a request."""
    parts = parts_of(request)
    document = parts.settings.document
    limits = replace(document, bytes=parts.settings.body_bytes, depth=document.depth + 2)
    try:
        if len(data) <= _INLINE_BYTES:
            return read_json(data, limits)
        return await parts.checker.in_thread(lambda: read_json(data, limits))
    except InvalidWorkflow as error:
        first = error.problems[0]
        code = "document-too-large" if first.code.startswith("limit-") else "malformed"
        at = f" (line {first.place.mark.line}, column {first.place.mark.column})" if first.place.mark else ""
        raise Refusal(code, f"In the body{at}: {first.message}") from None


async def parts_in(request: web.Request) -> AsyncIterator[Part]:
    """Yields the parts of a multipart body, each to be read before the next. Raises Refusal for what is no such body."""
    settings = parts_of(request).settings
    limit = settings.upload_bytes + settings.body_bytes
    if (request.content_length or 0) > limit:
        raise too_large(request.content_length, limit)
    pace, count = _Pace(settings), 0
    with _broken_form():
        reader = await request.multipart()
    while True:
        with _broken_form():
            async with pace.of(request.content.total_bytes):
                part = await reader.next()
        if part is None:
            return
        count += 1
        if count > settings.parts:
            raise Refusal("too-many-parts", f"A body may have {settings.parts} parts at most.")
        if not isinstance(part, BodyPartReader) or not part.name:
            raise Refusal("malformed", "A part of the body has no name, or holds parts itself; expected form-data.")
        kind = part.headers.get("Content-Type", "text/plain").partition(";")[0].strip().lower()
        yield Part(part.name, part.filename, kind, _chunks_of_part(request, part, pace, limit))


async def field_of(part: Part, limit: int = _FIELD_BYTES) -> bytes:
    """Returns a part that is no file, of bounded size."""
    data = bytearray()
    async for chunk in part.chunks:
        data += chunk
        if len(data) > limit:
            raise Refusal("too-large", f"The field {part.name[:40]!r} is longer than {limit:,} bytes.")
    return bytes(data)


def text_of(part: Part, data: bytes) -> str:
    """Returns a field as text."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Refusal("malformed", f"The field {part.name[:40]!r} is not UTF-8.") from error


def too_large(found: int | None, limit: int) -> Refusal:
    """Returns the refusal of a body beyond a limit."""
    words = f"{found:,}" if found is not None else "more"
    return Refusal("too-large", f"The body has {words} bytes; at most {limit:,} are taken.")


async def _chunks_of_part(request: web.Request, part: BodyPartReader, pace: _Pace, limit: int) -> AsyncIterator[bytes]:
    while True:
        with _broken_form():
            async with pace.of(request.content.total_bytes):
                chunk = await part.read_chunk(1 << 16)
        if request.content.total_bytes > limit:
            raise too_large(None, limit)
        if not chunk and part.at_eof():
            return
        yield bytes(chunk)


@contextmanager
def _broken_form() -> Iterator[None]:
    """Turns whatever the reader of forms raises for a form that is none into a refusal."""
    try:
        yield
    except (ValueError, RuntimeError, LookupError, AssertionError, HttpProcessingError, web.HTTPException) as error:
        raise Refusal("malformed", "The body is no multipart/form-data, or breaks off; check its boundary.") from error


class _Pace:
    """How long a body may take for the bytes that came so far."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._begun = asyncio.get_running_loop().time()

    def of(self, received: int) -> _Deadline:
        settings = self._settings
        return _Deadline(self._begun + settings.body_seconds + received / settings.slowest_body)


class _Deadline:
    """A time limit whose passing is the client's doing."""

    def __init__(self, when: float) -> None:
        self._timeout = asyncio.timeout_at(when)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *exception: Any) -> None:
        try:
            await self._timeout.__aexit__(*exception)
        except TimeoutError as error:
            raise Refusal("body-too-slow", "The body came too slowly; send it again.") from error
