"""Connections: how many there may be, how long one may take for the head of a request, and what it gets that sends no HTTP.

What a connection says is not known here; that is for the app. Whoever dribbles a head (a slow-loris client) is cut off when the
time for one is up, whatever came of it.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from .problems import TITLES, Refusal, problem_response
from .security import HEADERS
from .settings import Settings


class BoundedRunner(web.AppRunner):
    """An AppRunner whose connections are bounded by the settings."""

    def __init__(self, app: web.Application, settings: Settings, **options: Any) -> None:
        self._settings = settings
        super().__init__(app, access_log=None, **options)

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return BoundedServer(self._settings, made)


class BoundedServer(web.Server):
    """Serves at most so many connections, in all and for each address; one too many is told so and closed."""

    def __init__(self, settings: Settings, made: web.Server) -> None:
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            access_log=None,
            auto_decompress=False,  # no body is unpacked, so none can be a bomb
            keepalive_timeout=settings.idle_seconds,
            lingering_time=settings.linger_seconds,
            max_line_size=4 * settings.url_bytes,
            max_field_size=settings.header_bytes,
        )
        self._settings = settings
        self._addresses: dict[web.RequestHandler, str] = {}
        self._by_address: Counter[str] = Counter()

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Counts a connection, or closes it if it is one too many."""
        super().connection_made(handler, transport)
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) else "local"
        self._addresses[handler] = address
        self._by_address[address] += 1
        settings = self._settings
        if len(self._addresses) > settings.connections or self._by_address[address] > settings.connections_per_address:
            transport.write(_TOO_MANY)
            transport.close()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Gives a connection's place to the next."""
        super().connection_lost(handler, exc)
        address = self._addresses.pop(handler, None)
        if address is not None:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]


class _Connection(web.RequestHandler):
    """A connection that answers what is no HTTP with a problem, and leaves no noise in the log."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Returns the answer to a request that can't be read, or that failed outside of the app."""
        if isinstance(exc, ConnectionError) or request.writer.output_size > 0:
            raise ConnectionError("the client has gone, or the answer broke off")
        if status >= 500:
            self.log_exception("a request failed outside of the app", exc_info=exc)
            refusal = Refusal("internal", "The server failed to answer; its log says more.")
        elif isinstance(exc, LineTooLong):
            refusal = Refusal("headers-too-large", "The address or a header is too long.")
        else:
            refusal = Refusal("malformed", "This is no HTTP request that can be read.")
        response = problem_response(refusal)
        response.headers.update(HEADERS)
        response.force_close()
        return response


def _too_many() -> bytes:
    status, title = TITLES["too-many-connections"]
    body = json.dumps(
        {"type": "urn:problem:latentgraph:too-many-connections", "title": title, "status": status}
    ).encode()
    head = (
        f"HTTP/1.1 {status} Too Many Requests\r\nContent-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


_TOO_MANY = _too_many()
