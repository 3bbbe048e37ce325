"""The page for people, at `/`: files of the package that are read once, and served with a policy that lets nothing else run.

A file is found by its exact name among those that were read, so no name leads anywhere else. The page gets everything that it
shows from the API, with the token of whoever looks at it; nothing here knows a job.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePosixPath

from aiohttp import web

from .app import serve_openly

INDEX = "index.html"
FOLDER = "page"

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # no text becomes markup, even by mistake
        "trusted-types 'none'",
    )
)
"""What the page may do: run its own files, talk to its own server, show its own pictures and those that it was given."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page, as it is sent."""

    media_type: str
    data: bytes
    etag: str


PAGE = web.AppKey("latentgraph.page", Mapping[str, PageFile])


def add_page(app: web.Application) -> None:
    """Serves the page from an app: `/`, and its files below `/page/`. They are for anybody, since they tell nothing."""
    app[PAGE] = read_page()
    serve_openly(app, "/", get_index)
    serve_openly(app, f"/{FOLDER}/{{name}}", get_page_file)


def read_page() -> dict[str, PageFile]:
    """Returns the files of the page by name."""
    found: dict[str, PageFile] = {}
    for entry in files(__package__).joinpath(FOLDER).iterdir():
        media_type = _TYPES.get(PurePosixPath(entry.name).suffix)
        if media_type is not None and entry.is_file():
            data = entry.read_bytes()
            found[entry.name] = PageFile(media_type, data, hashlib.sha256(data).hexdigest()[:32])
    return found


async def get_index(request: web.Request) -> web.Response:
    """Show the page."""
    return _answer(request, request.app[PAGE][INDEX])


async def get_page_file(request: web.Request) -> web.Response:
    """Fetch a file of the page."""
    file = request.app[PAGE].get(request.match_info["name"])
    if file is None:
        raise web.HTTPNotFound
    return _answer(request, file)


def _answer(request: web.Request, file: PageFile) -> web.Response:
    headers = {
        "Cache-Control": "no-cache",  # kept, and asked for each time whether it still is what it was
        "Content-Security-Policy": POLICY,
        "Cross-Origin-Opener-Policy": "same-origin",
        "ETag": f'"{file.etag}"',
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    if any(tag.value in (file.etag, "*") for tag in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    return web.Response(body=file.data, headers={**headers, "Content-Type": file.media_type})
