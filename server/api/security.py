"""Who may reach the server, and as whom: the middlewares through which every request goes before its handler.

In this order: the address and headers are within bounds; Host is a name that the server goes by (against DNS rebinding); a page
of another origin changes nothing and opens no websocket (Origin); the token is known and may do what the route does; the caller
asks no more often than it may. No header but these says who somebody is.
"""

from __future__ import annotations

import ipaddress
import re

from aiohttp import web
from aiohttp.typedefs import Handler

from ..tokens import ANYBODY, Caller
from .parts import CALLER, PARTS, Parts, parts_of
from .problems import Refusal, problem_response, retry_after
from .routing import Route
from .settings import Settings

SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_PORTS = {"http": "80", "https": "443"}
_NOBODY = Caller("", frozenset())
_CORS_METHODS = "GET, HEAD, POST, PUT, DELETE"
_CORS_HEADERS = "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Range"
_CORS_EXPOSED = "Content-Disposition, Content-Range, ETag, Idempotency-Replayed, Location, Retry-After"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Server": "latentgraph",
    "X-Content-Type-Options": "nosniff",
}
"""What every answer carries."""


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses requests that are too large to look at, that reach the server by another's name, or that come across sites."""
    settings = parts_of(request).settings
    check_size(request, settings)
    host = check_host(request, settings)
    origin = request.headers.get("Origin")
    websocket = request.headers.get("Upgrade", "").strip().lower() == "websocket"
    if (
        request.method == "OPTIONS"
        and origin in settings.origins
        and "Access-Control-Request-Method" in request.headers
    ):
        return web.Response(status=204)  # the headers are added where all are, in `add_headers`
    if request.method not in SAFE_METHODS or websocket:
        check_origin(request, host, settings)
    return await handler(request)


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Finds out who asks and whether they may; what no route serves is answered without."""
    parts = parts_of(request)
    route = parts.by_handler.get(request.match_info.handler)
    if route is None:
        if request.match_info.http_exception is None and request.match_info.handler not in parts.open_handlers:
            raise RuntimeError(f"{request.path} is served without a declaration of who may call it")
        return await handler(request)
    caller = await find_caller(request, parts)
    request[CALLER] = caller
    limit_rate(request, parts, caller)
    check_scope(route, caller)
    return await handler(request)


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Adds what every answer carries; what a handler has set stays."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = HEADERS["Server"]  # aiohttp has told its own by now
    origin = request.headers.get("Origin")
    if origin is None or origin not in request.app[PARTS].settings.origins:
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        return
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = _CORS_EXPOSED
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    response.headers["Vary"] = ", ".join(filter(None, (response.headers.get("Vary"), "Origin")))
    if request.method == "OPTIONS":
        response.headers["Access-Control-Allow-Methods"] = _CORS_METHODS
        response.headers["Access-Control-Allow-Headers"] = _CORS_HEADERS
        response.headers["Access-Control-Max-Age"] = "600"


def check_size(request: web.Request, settings: Settings) -> None:
    """Raises Refusal for an address or headers beyond their bounds."""
    if len(request.raw_path) > settings.url_bytes:
        raise Refusal("url-too-long", f"The address is longer than {settings.url_bytes:,} bytes.")
    if sum(len(name) + len(value) for name, value in request.raw_headers) > settings.header_bytes:
        raise Refusal("headers-too-large", f"The headers have more than {settings.header_bytes:,} bytes.")


def check_host(request: web.Request, settings: Settings) -> tuple[str, str | None]:
    """Returns the name and port that a request asks for. Raises Refusal for a name that the server does not go by.

    Addresses written as numbers can't be rebound to another machine by anyone who owns a name, so all of them are taken.
    """
    given = request.headers.getall("Host", [])
    match = _HOST.fullmatch(given[0].strip()) if len(given) == 1 else None
    if match is None:
        raise Refusal("malformed", "A request names one host, as in 'Host: localhost:8188'.")
    name = match[1].lower().removesuffix(".")
    if name != "localhost" and name not in settings.hosts and not _is_address(name):
        words = f"The server does not go by the name {name[:100]!r}; if it should, start it with --name {name[:100]}."
        raise Refusal("bad-host", words)
    return name, match[2]


def check_origin(request: web.Request, host: tuple[str, str | None], settings: Settings) -> None:
    """Raises Refusal for what a page of another origin sends. Programs send no Origin, and are not asked for one."""
    given = request.headers.getall("Origin", [])
    if not given:
        site = request.headers.get("Sec-Fetch-Site", "none")
        if site in ("none", "same-origin"):
            return
    elif len(given) == 1 and (given[0] in settings.origins or _is_same_origin(given[0], host)):
        return
    who = given[0][:100] if given else "another site"
    raise Refusal(
        "bad-origin", f"Pages of {who!r} may not do this; if they should, add the origin to the server's origins."
    )


async def find_caller(request: web.Request, parts: Parts) -> Caller:
    """Returns who asks. Raises Refusal for a token that is not known."""
    given = request.headers.getall("Authorization", [])
    if not given:
        if parts.settings.open_on_loopback and await parts.tokens.is_empty():
            return ANYBODY
        return _NOBODY
    scheme, _, text = given[0].strip().partition(" ")
    caller = await parts.tokens.find(text.strip()) if len(given) == 1 and scheme.lower() == "bearer" else None
    if caller is not None:
        return caller
    per_minute = parts.settings.wrong_tokens_per_minute
    if wait := parts.wrong_tokens.take(request.remote, per_minute / 60, per_minute):
        raise Refusal("too-many-requests", "Too many wrong tokens came from there.", headers=retry_after(wait))
    words = "The token is not known, or was revoked; send 'Authorization: Bearer lg_...'."
    raise Refusal("wrong-token", words, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})


def limit_rate(request: web.Request, parts: Parts, caller: Caller) -> None:
    """Raises Refusal for a caller that asks more often than it may."""
    key = (caller.owner, "") if caller.scopes else ("", request.remote)
    per_minute = caller.requests_per_minute or parts.settings.requests_per_minute
    if wait := parts.rates.take(key, per_minute / 60, max(1, per_minute // 10)):
        words = f"More than {per_minute:,} requests a minute came; send the next in {wait:.1f} s."
        raise Refusal("too-many-requests", words, headers=retry_after(wait))


def check_scope(route: Route, caller: Caller) -> None:
    """Raises Refusal for a caller that may not do what a route does."""
    if route.scope is None or caller.may(route.scope):
        return
    if not caller.scopes:
        words = "A token is needed: send 'Authorization: Bearer lg_...'. `latentgraph token create` makes one."
        raise Refusal("no-token", words, headers={"WWW-Authenticate": "Bearer"})
    words = f"The token has no scope {route.scope!r}; it has {', '.join(sorted(caller.scopes))}."
    raise Refusal("missing-scope", words)


async def expect(request: web.Request) -> web.StreamResponse | None:
    """Answers `Expect: 100-continue` once it is known that the body is wanted, and any other expectation with a refusal."""
    if request.headers.get("Expect", "").lower() != "100-continue":
        return problem_response(Refusal("expectation-failed", "The only expectation that can be met is 100-continue."))
    largest = parts_of(request).settings.upload_bytes + parts_of(request).settings.body_bytes
    if (request.content_length or 0) > largest:
        refusal = Refusal("too-large", f"The body has {request.content_length:,} bytes; at most {largest:,} are taken.")
        response = problem_response(refusal)
        response.force_close()
        return response
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer itself is not begun
    return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _is_same_origin(origin: str, host: tuple[str, str | None]) -> bool:
    """Returns whether an origin is the host that was asked, whose scheme a proxy may have changed."""
    match = _ORIGIN.fullmatch(origin.strip())
    if match is None:
        return False
    name, port = host
    default = _PORTS[match[1]]
    return match[2].lower().removesuffix(".") == name and (match[3] or default) == (port or default)
