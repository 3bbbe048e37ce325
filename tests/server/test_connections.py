"""Connections: bounded in number, in what they may send before they are understood, and in how long they take."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import pytest

from latentgraph.server.api.settings import Settings

from .web_fakes import DOCUMENT, Site, serving

HEAD = b"Host: localhost\r\n"
PATIENCE_SECONDS = 30.0


async def connect(site: Site) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(site.client.host, site.client.port)


async def send(site: Site, data: bytes) -> bytes:
    """Returns all that comes back for some bytes, until the server closes or has answered once."""
    reader, writer = await connect(site)
    writer.write(data)
    async with asyncio.timeout(PATIENCE_SECONDS):
        answer = await reader.read()
    writer.close()
    return answer


def code(answer: bytes) -> str:
    """Returns the code of the problem in an answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, answer
    found: str = json.loads(body)["type"].rpartition(":")[2]
    return found


GET, POST = b"GET /v1/jobs HTTP/1.1\r\n" + HEAD, b"POST /v1/jobs HTTP/1.1\r\n" + HEAD
NO_HTTP = [
    b"hello\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET\r\n\r\n",
    b"\0" * 100 + b"\r\n\r\n",
    GET + b"Bad Header: x\r\n\r\n",
    GET + b"X: a\0b\r\n\r\n",
    POST + b"Content-Length: -1\r\n\r\n",
    POST + b"Content-Length: x\r\n\r\n",
    POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
    POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
]
PATHS = [
    b"//v1/jobs",
    b"/v1/../v1/jobs",
    b"/%2e%2e/%2e%2e/etc/passwd",
    b"/v1/jobs/..%2f..%2fx",
    b"http://evil.example/v1/x",
    b"*",
]


@pytest.mark.parametrize("data", NO_HTTP)
async def test_what_is_no_http_is_answered_and_cut_off(tmp_path: Path, data: bytes) -> None:
    """Two lengths, or a length and chunks, are how requests are smuggled past a proxy."""
    async with serving(tmp_path) as site:
        answer = await send(site, data)
        assert code(answer) == "malformed"
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
        assert b"nosniff" in answer


async def test_a_request_line_or_header_without_end_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        for data in (b"GET /" + b"a" * 100_000, b"GET /healthz HTTP/1.1\r\n" + HEAD + b"X: " + b"a" * 100_000):
            assert code(await send(site, data)) == "headers-too-large"
        many = b"".join(b"X%d: y\r\n" % index for index in range(10_000))
        assert code(await send(site, b"GET /healthz HTTP/1.1\r\n" + HEAD + many + b"\r\n")) in (
            "malformed",
            "headers-too-large",
        )


@pytest.mark.parametrize("path", PATHS)
async def test_no_path_leads_out_of_the_api(tmp_path: Path, path: bytes) -> None:
    async with serving(tmp_path) as site:
        answer = await send(site, b"GET " + path + b" HTTP/1.1\r\n" + HEAD + b"Connection: close\r\n\r\n")
        assert answer.split()[1] in (b"400", b"404")


async def test_a_request_without_a_host_or_with_two_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        for head in (b"", HEAD + HEAD, HEAD + b"Host: evil.example\r\n"):
            answer = await send(site, b"GET /healthz HTTP/1.1\r\n" + head + b"Connection: close\r\n\r\n")
            assert code(answer) == "malformed"


async def test_a_head_that_names_100_gb_is_refused_at_once(tmp_path: Path) -> None:
    kinds = {b"/v1/jobs": b"application/json", b"/v1/validate": b"application/yaml", b"/v1/files": b"image/png"}
    async with serving(tmp_path, Settings(linger_seconds=0.01)) as site:
        for path, kind in kinds.items():
            for form in (kind, b"multipart/form-data; boundary=x"):
                head = b"POST %s HTTP/1.1\r\n%sContent-Type: %s\r\nContent-Length: 107374182400\r\n\r\n" % (
                    path,
                    HEAD,
                    form,
                )
                if path == b"/v1/validate" and form != kind:
                    continue
                assert code(await send(site, head)) == "too-large"
                assert (
                    code(await send(site, head.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")))
                    == "too-large"
                )


async def test_who_waits_to_be_asked_for_a_body_is_asked(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        body = json.dumps({"document": DOCUMENT}).encode()
        reader, writer = await connect(site)
        head = POST + b"Content-Type: application/json\r\nContent-Length: %d\r\nExpect: %s\r\nConnection: close\r\n\r\n"
        writer.write(head % (len(body), b"100-continue"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 202 ")
        writer.close()
        assert code(await send(site, head % (0, b"a-pony"))) == "expectation-failed"


async def test_a_head_that_is_dribbled_is_cut_off(tmp_path: Path) -> None:
    """A slow-loris client: it sends a header now and then, and never ends."""
    async with serving(tmp_path, Settings(idle_seconds=0.1)) as site:
        reader, writer = await connect(site)
        writer.write(b"GET /healthz HTTP/1.1\r\n" + HEAD)

        async def dribble() -> None:
            while True:
                writer.write(b"X: y\r\n")
                await asyncio.sleep(0.01)

        dribbling = asyncio.create_task(dribble())
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert await reader.read() == b""
        dribbling.cancel()
        writer.close()


async def test_a_body_that_is_dribbled_is_cut_off(tmp_path: Path) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n\x89PNG\r\n\x1a\n'
    kinds = {b"application/json": b'{"document": "', b"multipart/form-data; boundary=x": form}
    async with serving(tmp_path, Settings(body_seconds=0.1, slowest_body=1_000_000, linger_seconds=0.01)) as site:
        for kind, begin in kinds.items():
            reader, writer = await connect(site)
            head = b"POST /v1/jobs HTTP/1.1\r\n%sContent-Type: %s\r\nContent-Length: 3000000\r\n\r\n" % (HEAD, kind)
            writer.write(head + begin)

            async def dribble(writer: asyncio.StreamWriter = writer) -> None:
                while True:
                    writer.write(b"x")
                    await asyncio.sleep(0.01)

            dribbling = asyncio.create_task(dribble())
            async with asyncio.timeout(PATIENCE_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 408 ")
            dribbling.cancel()
            writer.close()
        assert not [path for path in (site.store.folder / "files").rglob("*") if path.is_file()]


async def test_connections_are_bounded_and_one_too_many_is_told_so(tmp_path: Path) -> None:
    async with serving(tmp_path, Settings(connections=20, connections_per_address=20)) as site:
        held = [await connect(site) for _ in range(20)]
        assert code(await send(site, b"")) == "too-many-connections"
        answer = await send(site, b"")
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"Retry-After: 5\r\n" in answer
        for _, writer in held:
            writer.close()
        for _ in range(1000):
            async with await site.ask("GET", "/healthz") as response:
                if response.status == 200:
                    break
        assert response.status == 200


async def test_one_address_can_not_take_all_places(tmp_path: Path) -> None:
    async with serving(tmp_path, Settings(connections=100, connections_per_address=5)) as site:
        held = [await connect(site) for _ in range(5)]
        assert code(await send(site, b"")) == "too-many-connections"
        for _, writer in held:
            writer.close()


async def test_many_sockets_at_once_cost_the_others_nothing(tmp_path: Path) -> None:
    """Bounded here, since the machine that tests is not to suffer: 400 sockets that say nothing, while jobs are submitted."""
    async with serving(tmp_path, Settings(connections=800, connections_per_address=800)) as site:
        held = [await connect(site) for _ in range(400)]
        for _ in range(5):
            await site.submit()
        for _, writer in held:
            writer.close()
        for _, writer in held:
            await writer.wait_closed()


async def test_requests_in_a_row_are_answered_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        one = b"GET /healthz HTTP/1.1\r\n" + HEAD + b"\r\n"
        last = b"GET /nothing HTTP/1.1\r\n" + HEAD + b"Connection: close\r\n\r\n"
        answer = await send(site, one * 50 + last)
        assert (answer.count(b"HTTP/1.1 200 OK"), answer.count(b"HTTP/1.1 404")) == (50, 1)
        assert answer.rindex(b"HTTP/1.1 200") < answer.index(b"HTTP/1.1 404")


async def test_a_client_that_leaves_in_the_middle_leaves_no_trace_but_a_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as site:
        for kind in (b"application/json", b"image/png"):
            _, writer = await connect(site)
            path = b"/v1/files" if kind == b"image/png" else b"/v1/jobs"
            writer.write(
                b"POST %s HTTP/1.1\r\n%sContent-Type: %s\r\nContent-Length: 300\r\n\r\nabc" % (path, HEAD, kind)
            )
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.close()
            await writer.wait_closed()
        await site.json("GET", "/healthz")
        await asyncio.sleep(0.05)
        assert not [record for record in caplog.records if record.levelname in ("ERROR", "WARNING")]
        assert not [path for path in (site.store.folder / "files").rglob("*") if path.is_file()]
