"""Routes of events: what happens to a job, from any number on, as server-sent events or over a websocket.

Nothing is left out and nothing comes twice: a client goes on from the last number that it has seen. One that reads too slowly
is cut off, and goes on the same way.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json

from aiohttp import WSCloseCode, WSMsgType, web

from ..errors import SlowReader, StoreClosed
from ..jobs.eventlog import Watcher
from ..jobs.values import NumberedEvent, Preview
from .job_routes import own_job
from .job_views import EventView, PreviewView
from .parts import caller_of, parts_of
from .problems import Refusal
from .routing import EVENT_STREAM, Answer, Route, read_query
from .schemas import EventsQuery
from .sending import write
from .streams import LOOK_SECONDS, is_there

_RETRY_MILLISECONDS = 1_000
_MESSAGE_BYTES = 1_024  # of a client over a websocket, which has nothing to say
_CLOSE_SECONDS = 2.0


async def watch_job(request: web.Request) -> web.StreamResponse:
    """Follow what happens to a job, live and from any point.

    Server-sent events, or a websocket for those who ask for one. Ends after the event `finished`.
    """
    query, parts = read_query(request, EventsQuery), parts_of(request)
    job = await own_job(request)
    after = _last_event_id(request) if "Last-Event-ID" in request.headers else query.after or 0
    with parts.streams.place(caller_of(request).owner):
        async with parts.store.watch(job.id, after) as watcher:
            if _wants_websocket(request):
                return await _over_websocket(request, watcher, query.previews)
            if job.ended and (first := await watcher.next()) is None:
                return web.Response(status=204)  # which tells an EventSource not to come again
            return await _as_server_sent(request, watcher, query.previews, first if job.ended else None)


async def _as_server_sent(
    request: web.Request, watcher: Watcher, previews: bool, first: NumberedEvent | Preview | None
) -> web.StreamResponse:
    headers = {"Content-Type": EVENT_STREAM, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    await write(request, response, f"retry: {_RETRY_MILLISECONDS}\n\n".encode())
    if first is not None:
        await write(request, response, _server_sent(first))
    with contextlib.suppress(SlowReader, StoreClosed):  # the client comes again with the last number it has
        while (item := await _next(request, response, watcher)) is not None:
            if previews or isinstance(item, NumberedEvent):
                await write(request, response, _server_sent(item))
    return response


async def _next(request: web.Request, response: web.StreamResponse, watcher: Watcher) -> NumberedEvent | Preview | None:
    """Returns what comes next, with signs of life until then; None at the end, and once the client is gone."""
    heartbeat = parts_of(request).settings.heartbeat_seconds
    quiet = 0.0
    while is_there(request):
        look = min(heartbeat, LOOK_SECONDS)
        try:
            return await watcher.next(look)
        except TimeoutError:
            quiet += look
        if quiet >= heartbeat:
            quiet = 0.0
            await write(request, response, b":\n\n")
    return None


async def _over_websocket(request: web.Request, watcher: Watcher, previews: bool) -> web.WebSocketResponse:
    settings = parts_of(request).settings
    socket = web.WebSocketResponse(
        heartbeat=settings.heartbeat_seconds, max_msg_size=_MESSAGE_BYTES, timeout=_CLOSE_SECONDS, compress=False
    )
    await socket.prepare(request)
    telling = asyncio.create_task(_tell(request, socket, watcher, previews))
    listening = asyncio.create_task(_listen(socket))
    code, words = int(WSCloseCode.SERVICE_RESTART), "the server is shutting down"
    try:
        await asyncio.wait((telling, listening), return_when=asyncio.FIRST_COMPLETED)
        if telling.done():
            code, words = telling.result()
        else:
            code, words = listening.result()
    finally:
        for task in (telling, listening):
            task.cancel()
        await asyncio.gather(telling, listening, return_exceptions=True)
        with contextlib.suppress(ConnectionError):
            await socket.close(code=code, message=words.encode())
    return socket


async def _tell(
    request: web.Request, socket: web.WebSocketResponse, watcher: Watcher, previews: bool
) -> tuple[int, str]:
    """Tells a websocket what happens; returns with which code and words to close it."""
    try:
        while (item := await watcher.next()) is not None:
            if previews or isinstance(item, NumberedEvent):
                async with asyncio.timeout(parts_of(request).settings.write_seconds):
                    await socket.send_str(_json(item))
    except SlowReader as slow:
        return WSCloseCode.TRY_AGAIN_LATER, f"too slow; go on from event {slow.last}"
    except StoreClosed:
        return WSCloseCode.SERVICE_RESTART, "the server is shutting down"
    except (TimeoutError, ConnectionError):
        if request.transport is not None:
            request.transport.abort()
        return WSCloseCode.TRY_AGAIN_LATER, "too slow"
    return WSCloseCode.OK, "the job has ended"


async def _listen(socket: web.WebSocketResponse) -> tuple[int, str]:
    """Waits until a client closes its websocket, or says something, which it has no reason to."""
    message = await socket.receive()
    if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
        return WSCloseCode.POLICY_VIOLATION, "nothing is expected here"
    return WSCloseCode.OK, ""


def _wants_websocket(request: web.Request) -> bool:
    """Returns whether a request asks for a websocket. Raises Refusal for one that asks wrongly."""
    if request.headers.get("Upgrade", "").strip().lower() != "websocket":
        return False
    try:
        ready = web.WebSocketResponse().can_prepare(request).ok
    except ValueError:  # a key that is no ASCII
        ready = False
    if not ready:
        raise Refusal("malformed", "This is no handshake of a websocket (RFC 6455).")
    return True


def _last_event_id(request: web.Request) -> int:
    text = request.headers["Last-Event-ID"].strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise Refusal("malformed", f"Last-Event-ID is {text[:40]!r}; expected the number of an event.")
    return int(text)


def _server_sent(item: NumberedEvent | Preview) -> bytes:
    """Returns an event as the event stream format writes it; a preview has no id, so nobody goes on from it."""
    if isinstance(item, NumberedEvent):
        return f"id: {item.number}\nevent: {item.kind.value}\ndata: {_json(item)}\n\n".encode()
    return f"event: preview\ndata: {_json(item)}\n\n".encode()


def _json(item: NumberedEvent | Preview) -> str:
    if isinstance(item, NumberedEvent):
        return json.dumps(EventView.of(item).model_dump(), separators=(",", ":"))
    jpeg = base64.b64encode(item.image).decode()
    return PreviewView(attempt=item.attempt, node=item.node, jpeg=jpeg).model_dump_json()


ROUTES = (
    Route(
        "GET",
        "/v1/jobs/{id}/events",
        watch_job,
        "jobs",
        "read",
        {
            200: Answer("The events; each `data` is an EventView as JSON.", EventView, (EVENT_STREAM,)),
            101: Answer("A websocket; each message is an EventView or a PreviewView as JSON."),
            204: Answer("The job has ended, and there is no event after the given one."),
        },
        query=EventsQuery,
        headers={"Last-Event-ID": "The number of the last event known; counts before `after`."},
        problems=("unknown-job", "too-many-streams"),
    ),
)
"""The routes of this module."""
