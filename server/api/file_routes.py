"""Routes of uploads: a file is known by its content, and each caller sees those that it has sent."""

from __future__ import annotations

from aiohttp import web

from ..errors import UnknownFile
from ..files.content import RASTER
from ..files.uploads import Received, digest_of
from ..jobs.uploads import StoredUpload
from .bodies import chunks_of, form_of, parts_in
from .parts import caller_of, parts_of
from .problems import Refusal
from .routing import MULTIPART, Answer, Body, Route, json_response, read_query
from .schemas import OutputQuery, UploadQuery
from .sending import send_file
from .uploading import forget_upload, take_upload
from .views import UploadView


async def upload_file(request: web.Request) -> web.Response:
    """Upload a picture: as the body, or as the one file of a form.

    The answer's `id` is what the inputs and parameters of documents take. What it is, its bytes tell.
    """
    query, parts, caller = read_query(request, UploadQuery), parts_of(request), caller_of(request)
    if form_of(request) == "multipart":
        received, stored = await _from_form(request, query.strip_metadata)
    else:
        chunks = chunks_of(request, parts.settings.upload_bytes)
        received, stored = await take_upload(parts, caller, chunks, strip=query.strip_metadata)
    view = UploadView.of(stored, received.content.width, received.content.height)
    return json_response(view, 201, {"Location": view.href})


async def get_file(request: web.Request) -> web.StreamResponse:
    """Fetch an upload of one's own, or one that a stored workflow names."""
    query = read_query(request, OutputQuery)
    stored = await _usable_upload(request)
    await parts_of(request).store.uploads.touch(stored)
    return await send_file(
        request,
        await parts_of(request).files.open(stored.sha256),
        name=f"{stored.sha256[:16]}.{stored.media_type.rpartition('/')[2]}",
        media_type=stored.media_type,
        size=stored.size,
        sha256=stored.sha256,
        download=query.download,
    )


async def delete_file(request: web.Request) -> web.Response:
    """Remove an upload of one's own. Jobs that still need it will fail."""
    stored = await _usable_upload(request)
    caller = caller_of(request)
    if stored.owner != caller.owner:
        raise UnknownFile(f"the upload sha256:{stored.sha256} is somebody else's")
    await forget_upload(parts_of(request), caller, stored.sha256)
    return web.Response(status=204)


async def _from_form(request: web.Request, strip: bool) -> tuple[Received, StoredUpload]:
    taken: tuple[Received, StoredUpload] | None = None
    async for part in parts_in(request):
        if part.filename is None or taken is not None:
            raise Refusal("invalid-request", "The form holds more than one file; send each with a request of its own.")
        taken = await take_upload(parts_of(request), caller_of(request), part.chunks, strip=strip)
    if taken is None:
        raise Refusal("invalid-request", "The form holds no file; expected one.")
    return taken


async def _usable_upload(request: web.Request) -> StoredUpload:
    """Returns the upload that a request names. Raises UnknownFile for one that is not for the caller, too."""
    id, caller = request.match_info["id"], caller_of(request)
    sha256 = digest_of(id)
    if sha256 is None:
        raise UnknownFile(f"{id[:80]!r} is no content id; expected 'sha256:' and 64 hexadecimal digits")
    uploads = parts_of(request).store.uploads
    stored = await uploads.get(caller.owner, sha256) or await uploads.get(caller.sees, sha256)
    if stored is None:
        raise UnknownFile(f"there is no upload {id}")
    return stored


_PICTURES = dict.fromkeys(sorted(RASTER), "The file.")

ROUTES = (
    Route(
        "POST",
        "/v1/files",
        upload_file,
        "files",
        "submit",
        {201: Answer("The file, which is kept.", UploadView, headers={"Location": "Where to fetch it."})},
        query=UploadQuery,
        body=Body(None, {**_PICTURES, MULTIPART: "A form with one file."}),
        problems=(
            "upload-too-large",
            "too-many-pixels",
            "unsupported-type",
            "damaged-file",
            "quota-exceeded",
            "storage-full",
        ),
    ),
    Route(
        "GET",
        "/v1/files/{id}",
        get_file,
        "files",
        "read",
        {
            200: Answer("The file.", types=(*sorted(RASTER), "application/octet-stream")),
            206: Answer("A part of the file.", types=(*sorted(RASTER), "application/octet-stream")),
            304: Answer("It is what it was."),
        },
        query=OutputQuery,
        problems=("unknown-file", "bad-range"),
    ),
    Route(
        "DELETE",
        "/v1/files/{id}",
        delete_file,
        "files",
        "submit",
        {204: Answer("It is gone.")},
        problems=("unknown-file",),
    ),
)
"""The routes of this module."""
