"""Requests at random over all routes: whatever they hold, no answer is of class 5xx, and the server goes on.

The requests of a run follow from its seed. LATENTGRAPH_FUZZ sets how many there are (the long run has 100,000), and
LATENTGRAPH_FUZZ_SEED another seed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError
from yarl import URL

from latentgraph.server.api.app import ROUTES
from latentgraph.server.api.routing import Route
from latentgraph.server.api.settings import Settings

from .web_fakes import DOCUMENT, PICTURE_YAML, YAML, Site, pillow_picture, png, serving

REQUESTS = int(os.environ.get("LATENTGRAPH_FUZZ", "3000"))
SEED = int(os.environ.get("LATENTGRAPH_FUZZ_SEED", "20"))
AT_ONCE = 8
PATIENCE_SECONDS = 600.0
"""How long an answer may take: long enough that only one that never comes takes longer."""

STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1.5, -0.0, 2**31, 2**63, 2**64, 10**400, 1e308, "", "x", "NaN", "\0", "\n", "../x", "$one",
    "$", "$$", "${params.value}", "$params.value", "\u202e", "\U0001f4a9", "sha256:" + "0" * 64, "a" * 5000, [], {}, [None],
    {"": ""}, {"a": {"b": [1, [2]]}},
)  # fmt: skip
PIECES = (
    "..", "%2e%2e", "%2f", "%00", "%0a", "%ff", "x", "-1", "0" * 32, "sha256:" + "0" * 64, "numbers", "%f0%9f%92%a9",
    "a" * 300, ";", "*",
)  # fmt: skip
TYPES = (
    "application/json", "application/yaml", "multipart/form-data; boundary=x", "multipart/form-data", "text/yaml", "", "x",
    "multipart/mixed; boundary=x", "application/json; charset=utf-16", "image/png", "text/html", "application/problem+json",
    'a/b; c="d', "application/x-www-form-urlencoded",
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")
RANGES = ("bytes=0-", "bytes=-1", "bytes=5-2", "bytes=0-1,3-4", "x", "bytes=-0", "bytes=" + "9" * 5000 + "-")
VALUES = (0, 1, 2, -1, 10**30, "", "true", "queued", "x", "%00", "%ff", "nan", "1e9", "\u0663", "numbers")
KEYS = ("x", "", "$", "foreach", "type", "params", "workflow", "outputs", "\0")
PICTURES = (png(3, 3), *(pillow_picture(kind) for kind in ("JPEG", "WEBP", "GIF")))
FIELDS = ("document", "params", "request", "workflow", "picture", "file", "seed", "words", "_charset_", "")
FILES = ('; filename="a.png"', '; filename="../../x"', "", "", "; filename*=utf-8''%ff")
DATA = (png(), YAML.encode(), PICTURE_YAML.encode(), b'{"a": 1}', b"x", b"", b"\xff\0", b"numbers")
EXTRA = ("", "", "", "Content-Transfer-Encoding: base64\r\n", "Content-Type: multipart/mixed; boundary=y\r\n")
HEADERS = {
    "Accept": ("*/*", "application/json", "text/event-stream", "", "x;q=9"),
    "Accept-Encoding": ("gzip", "br", "*"),
    "Authorization": ("", "Bearer", "Bearer lg_" + "a" * 43, "Basic eA==", "\u00e9"),
    "Connection": ("Upgrade", "keep-alive"),
    "Content-Encoding": ("identity", "gzip", "x"),
    "Cookie": ("a=b", "\u00e9=;;"),
    "Expect": ("100-continue", "x"),
    "Host": ("localhost", "evil.example", "", "[::1"),
    "Idempotency-Key": ("a", "b", "", "\u00e9", "x" * 300),
    "If-Match": ("*", "x"),
    "If-Modified-Since": ("x", "Thu, 01 Jan 1970 00:00:00 GMT"),
    "If-None-Match": ("*", '"x"', 'W/"x", y', '"\u00e9"'),
    "If-Range": ("x", '"x"'),
    "Last-Event-ID": ("0", "1", "-1", "x", "9" * 40),
    "Origin": ("null", "https://evil.example", "http://localhost", "x"),
    "Range": RANGES,
    "Sec-WebSocket-Key": ("x", "dGhlIHNhbXBsZSBub25jZQ=="),
    "Sec-WebSocket-Version": ("13", "99"),
    "Upgrade": ("websocket", "h2c"),
    "X-Forwarded-For": ("127.0.0.1",),
}


class Fuzzer:
    """Makes requests that are nearly right, or not at all."""

    def __init__(self, chance: random.Random, ids: Mapping[str, Sequence[str]]) -> None:
        self.chance, self.ids = chance, ids

    def request(self) -> tuple[str, URL, dict[str, Any]]:
        """Returns a method, an address and what else goes with it."""
        route = self.chance.choice(ROUTES)
        method = route.method if self.rarely(0.9) else self.chance.choice(METHODS)
        headers = {name: self.chance.choice(HEADERS[name]) for name in HEADERS if self.rarely(0.04)}
        options: dict[str, Any] = {"headers": headers}
        if route.body is not None and method in ("POST", "PUT", "PATCH"):
            headers["Content-Type"], options["data"] = self.body(route)
        return method, URL(self.path(route) + self.query(route), encoded=True), options

    def rarely(self, probability: float) -> bool:
        return self.chance.random() < probability

    def path(self, route: Route) -> str:
        path = route.path
        for name in ("id", "name"):
            known = self.ids[route.path] if route.path in self.ids else self.ids[name]
            strange = "".join(self.chance.choices(PIECES, k=self.chance.randint(1, 3)))
            path = path.replace("{" + name + "}", self.chance.choice(known) if self.rarely(0.7) else strange)
        return path + self.chance.choice(PIECES) if self.rarely(0.03) else path

    def query(self, route: Route) -> str:
        known = list(route.query.model_fields) if route.query else []
        pairs = []
        for _ in range(self.chance.choice((0, 0, 0, 1, 1, 2, 4))):
            name = self.chance.choice(known) if known and self.rarely(0.9) else "x"
            value = self.chance.choice((0, 0.001, -1, "x", "nan", "inf") if name == "wait" else VALUES)
            pairs.append(f"{name}={value}")
        return "?" + "&".join(pairs) if pairs else ""

    def body(self, route: Route) -> tuple[str, bytes]:
        """Returns a type and a body, which may have nothing to do with each other."""
        kind = self.chance.choice(list(route.body.others) if route.body and self.rarely(0.4) else TYPES)
        if "files" in route.path and self.rarely(0.5):
            return kind, self.broken(self.chance.choice(PICTURES))
        if "multipart" in kind and self.rarely(0.7):
            return "multipart/form-data; boundary=x", self.form()
        if "yaml" in kind:
            return kind, self.broken(self.chance.choice((YAML, PICTURE_YAML)).encode())
        document = self.mutated(self.chance.choice((DOCUMENT, YAML, PICTURE_YAML)))
        values: dict[str, Any] = {"document": document, "params": {"words": "a"}, "priority": 1}
        if "workflows" in route.path:
            values = {"words": "a", "value": 2.5}
        text = json.dumps(self.mutated(values) if self.rarely(0.8) else values, ensure_ascii=self.rarely(0.5))
        return (kind if self.rarely(0.2) else "application/json"), self.broken(text.encode("utf-8", "surrogatepass"))

    def form(self) -> bytes:
        fields = []
        for _ in range(self.chance.randint(0, 4)):
            name, file, extra = (self.chance.choice(several) for several in (FIELDS, FILES, EXTRA))
            head = f'--x\r\nContent-Disposition: form-data; name="{name}"{file}\r\n{extra}\r\n'
            fields.append(head.encode() + self.chance.choice(DATA) + b"\r\n")
        return self.broken(b"".join(fields) + b"--x--\r\n")

    def broken(self, data: bytes) -> bytes:
        """Returns bytes that are, now and then, not quite what they were."""
        if self.rarely(0.6) or not data:
            return data
        at = self.chance.randrange(len(data))
        how = self.chance.randrange(4)
        if how == 0:
            return data[:at]
        if how == 1:
            return data[:at] + bytes([self.chance.randrange(256)]) + data[at + 1 :]
        if how == 2:
            return data[:at] + data[at:][: self.chance.randrange(50)] * self.chance.randrange(40) + data[at:]
        return data + self.chance.randbytes(self.chance.randrange(20))

    def mutated(self, value: Any, depth: int = 0) -> Any:
        """Returns a value in which something may be something else."""
        if self.rarely(0.08):
            return self.chance.choice(STRANGE)
        if isinstance(value, dict):
            found = {name: self.mutated(item, depth + 1) for name, item in value.items() if not self.rarely(0.05)}
            if self.rarely(0.08):
                found[self.chance.choice(KEYS)] = self.chance.choice(STRANGE)
            return found
        if isinstance(value, list):
            return [self.mutated(item, depth + 1) for item in value]
        return value


@pytest.mark.filterwarnings("ignore::aiohttp.multipart.BadContentDispositionParam")
@pytest.mark.filterwarnings("ignore::aiohttp.multipart.BadContentDispositionHeader")
async def test_no_request_makes_the_server_fail(tmp_path: Path) -> None:
    many = 10**9
    settings = Settings(
        requests_per_minute=many,
        wrong_tokens_per_minute=many,
        heartbeat_seconds=0.01,
        linger_seconds=0.01,
        workflows=50,
    )
    async with serving(tmp_path, settings, explain=nothing, models=nothing) as site:
        fuzzer = Fuzzer(random.Random(SEED), await known(site))
        requests = (fuzzer.request() for _ in range(REQUESTS))
        statuses: dict[int, int] = {}

        async def send() -> None:
            for method, url, options in requests:
                status = await _status(site, method, url, options)
                assert status < 500, (method, url, options)
                statuses[status] = statuses.get(status, 0) + 1

        await asyncio.gather(*(send() for _ in range(AT_ONCE)))
        assert sum(statuses.values()) == REQUESTS
        assert {200, 201, 202, 400, 403, 404, 405, 415, 422} <= set(statuses), "the requests reach what they should"
        assert await site.json("GET", "/healthz") == {"status": "ok"}


async def nothing(*arguments: Any) -> list[dict[str, Any]]:
    return []


async def known(site: Site) -> dict[str, list[str]]:
    """Returns names that mean something, by what they name; there are jobs that wait, run, and have ended."""
    await site.store.workflows.put("numbers", YAML, "application/yaml")
    await site.store.workflows.put("pictures", PICTURE_YAML, "application/yaml")
    jobs = [(await site.submit())["id"] for _ in range(4)]
    await site.run_next({"image": {"a.png": png()}}, number=3)
    await site.store.claim("w0")
    await site.store.cancel(jobs[2])
    upload = await site.upload(png())
    return {
        "id": jobs,
        "name": ["numbers", "pictures", "image", "number"],
        "/v1/files/{id}": [upload],
        "/v1/jobs/{id}/events": jobs[::2],  # which have ended, so that their streams end
        "/v1/jobs/{id}/outputs/{name}": ["image", "number", *jobs],
    }


async def _status(site: Site, method: str, url: URL, options: dict[str, Any]) -> int:
    """Returns the status of an answer that is read to its end; 499 if the connection was cut off, as it may be."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS), await site.ask(method, url, **options) as response:
            if response.status != 101 and response.content_type != "text/event-stream":
                await response.read()
            return response.status
    except ClientError:
        return 499
