"""Events over HTTP: complete, in order and once, from any number on, whatever breaks the stream."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, WSMsgType

from latentgraph.server.api.settings import Settings
from latentgraph.server.jobs.values import EventKind, JobEvent, Preview, QueueLimits

from .web_fakes import Site, serving

RECONNECTS = int(os.environ.get("LATENTGRAPH_RECONNECTS", "300"))
"""How often the stream is broken; the long run has 10,000."""


def progress(step: int) -> JobEvent:
    return JobEvent(EventKind.PROGRESS, {"node": "one", "step": step, "total": 100})


async def server_sent(response: ClientResponse) -> AsyncIterator[dict[str, str]]:
    """Yields the fields of each event of a stream."""
    fields: dict[str, str] = {}
    async for line in response.content:
        text = line.decode().rstrip("\n")
        if text and not text.startswith(":"):
            name, _, value = text.partition(": ")
            fields[name] = value
        elif not text:
            if "data" in fields:
                yield fields
            fields = {}


async def running(site: Site) -> str:
    """Returns the id of a job that a worker has."""
    id: str = (await site.submit())["id"]
    await site.store.claim("w0")
    return id


async def test_events_come_in_order_and_end_with_the_job(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        id = await running(site)
        async with await site.ask("GET", f"/v1/jobs/{id}/events") as response:
            assert response.headers["Content-Type"] == "text/event-stream"
            stream = server_sent(response)
            early = [await anext(stream), await anext(stream)]
            await site.tell(id, progress(1), progress(2))
            await site.store.cancel(id)
            await site.store.cancelled(id, 1)
            late = [fields async for fields in stream]
        found = [json.loads(fields["data"]) for fields in early + late]
        assert [event["number"] for event in found] == list(range(1, len(found) + 1))
        assert [fields["event"] for fields in early + late] == [event["kind"] for event in found]
        assert [event["kind"] for event in found] == [
            "queued", "started", "progress", "progress", "cancel_requested", "finished",
        ]  # fmt: skip
        assert [fields["id"] for fields in early + late] == [str(event["number"]) for event in found]
        assert found[2]["data"] == {"node": "one", "step": 1, "total": 100}
        assert found[-1]["data"]["state"] == "cancelled"


@pytest.mark.parametrize("how", ["header", "query", "both"])
async def test_a_stream_goes_on_from_the_last_number_that_was_seen(tmp_path: Path, how: str) -> None:
    async with serving(tmp_path) as site:
        id = await running(site)
        await site.tell(id, *(progress(step) for step in range(1, 6)))
        await site.store.put_back(id, 1)
        await site.store.cancel(id)
        query = {"header": "", "query": "?after=4", "both": "?after=1"}[how]
        headers = {} if how == "query" else {"Last-Event-ID": "4"}
        async with await site.ask("GET", f"/v1/jobs/{id}/events{query}", headers=headers) as response:
            found = [int(fields["id"]) async for fields in server_sent(response)]
        assert found == [5, 6, 7, 8, 9]


async def test_there_is_nothing_after_the_end_of_a_job(tmp_path: Path) -> None:
    """204 tells an EventSource not to come again."""
    async with serving(tmp_path) as site:
        id = (await site.submit())["id"]
        await site.store.cancel(id)
        for after in (2, 99, 2**62):
            async with await site.ask("GET", f"/v1/jobs/{id}/events?after={after}") as response:
                assert (response.status, await response.read()) == (204, b"")


@pytest.mark.parametrize("id", ["-1", "x", "1e3", "9" * 30, "\u0663"])
async def test_a_last_event_id_that_is_no_number_is_refused(tmp_path: Path, id: str) -> None:
    async with serving(tmp_path) as site:
        job = (await site.submit())["id"]
        await site.problem("GET", f"/v1/jobs/{job}/events", 400, "malformed", headers={"Last-Event-ID": id})


async def test_a_stream_that_has_nothing_to_say_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path, Settings(heartbeat_seconds=0.01)) as site:
        id = (await site.submit())["id"]
        async with await site.ask("GET", f"/v1/jobs/{id}/events?after=1") as response:
            lines = [await response.content.readline() for _ in range(6)]
        assert lines == [b"retry: 1000\n", b"\n", b":\n", b"\n", b":\n", b"\n"]


async def test_previews_come_to_those_who_want_them_and_are_kept_by_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        id = await running(site)
        async with (
            await site.ask("GET", f"/v1/jobs/{id}/events?previews=true&after=2") as wanted,
            await site.ask("GET", f"/v1/jobs/{id}/events?after=2") as unwanted,
        ):
            stream = server_sent(wanted)
            site.store.publish_preview(id, Preview(1, "one", b"\xff\xd8\xff"))
            first = await anext(stream)
            await site.store.put_back(id, 1)
            await site.store.cancel(id)
            assert [fields["event"] async for fields in stream] == ["put_back", "finished"]
            assert [fields["event"] async for fields in server_sent(unwanted)] == ["put_back", "finished"]
        assert "id" not in first
        data = json.loads(first["data"])
        assert (data["kind"], data["node"], base64.b64decode(data["jpeg"])) == ("preview", "one", b"\xff\xd8\xff")


async def test_a_websocket_tells_the_same(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        id = await running(site)
        async with site.client.ws_connect(f"/v1/jobs/{id}/events?after=1") as socket:
            first = await socket.receive_json()
            await site.tell(id, progress(1))
            await site.run_away(id)
            rest = [json.loads(message.data) async for message in socket]
            assert socket.close_code == 1000
        assert [event["number"] for event in [first, *rest]] == [2, 3, 4, 5]
        assert [event["kind"] for event in rest] == ["progress", "put_back", "finished"]


async def test_a_websocket_is_not_for_talking(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        id = (await site.submit())["id"]
        async with site.client.ws_connect(f"/v1/jobs/{id}/events?after=1") as socket:
            await socket.send_str("hello")
            message = await socket.receive()
            assert (message.type, message.data) == (WSMsgType.CLOSE, 1008)


async def test_a_handshake_that_is_none_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        id = (await site.submit())["id"]
        headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        for key in ("", "short", "\u00e9" * 24):
            wanted = {**headers, "Sec-WebSocket-Key": key}
            await site.problem("GET", f"/v1/jobs/{id}/events", 400, "malformed", headers=wanted)


async def test_streams_end_when_the_server_does(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        id = (await site.submit())["id"]
        async with (
            await site.ask("GET", f"/v1/jobs/{id}/events?after=1") as response,
            site.client.ws_connect(f"/v1/jobs/{id}/events?after=1") as socket,
        ):
            await response.content.readline()
            waiting = asyncio.create_task(site.ask("GET", f"/v1/jobs/{id}?wait=50"))
            while len(site.parts.streams) < 3:
                await asyncio.sleep(0.001)
            site.parts.streams.close()
            message = await socket.receive()
            assert (message.type, message.data) == (WSMsgType.CLOSE, 1012)
            with pytest.raises(Exception, match=r"."):
                await waiting
        while len(site.parts.streams):  # those that say goodbye
            await asyncio.sleep(0.001)
        await site.problem("GET", f"/v1/jobs/{id}/events", 503, "draining")


async def test_streams_are_bounded_for_all_and_for_each(tmp_path: Path) -> None:
    async with serving(tmp_path, Settings(streams=3, streams_per_owner=2)) as site:
        one, two = await site.new_token("submit"), await site.new_token("submit")
        mine, theirs = (await one.submit())["href"], (await two.submit())["href"]
        wanted = ((one, mine), (one, mine), (two, theirs))
        open_ones = [await who.ask("GET", f"{href}/events") for who, href in wanted]
        for who, href in wanted[1:]:
            problem = await who.problem("GET", f"{href}/events", 429, "too-many-streams")
            assert "3 open streams" in problem["detail"]
            await who.problem("GET", f"{href}?wait=1", 429, "too-many-streams")
        for response in open_ones:
            response.close()


async def test_the_place_of_a_client_that_has_gone_is_free_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("event_routes", "submitting"):
        monkeypatch.setattr(f"latentgraph.server.api.{module}.LOOK_SECONDS", 0.01)
    async with serving(tmp_path) as site:
        job = await site.submit()
        async with await site.ask("GET", f"{job['href']}/events?after=1") as response:
            response.close()
        waiting = asyncio.create_task(site.ask("GET", f"{job['href']}?wait=50"))
        while len(site.parts.streams) < 1:
            await asyncio.sleep(0.001)
        waiting.cancel()
        while len(site.parts.streams):
            await asyncio.sleep(0.001)


async def test_a_reader_that_takes_nothing_is_cut_off_and_may_go_on(tmp_path: Path) -> None:
    """Once what the connection holds is full, the stream is given up; a new one goes on where the reader was."""
    settings, limits = Settings(write_seconds=0.05), QueueLimits(watcher_backlog=100_000, max_events=1_000_000)
    async with serving(tmp_path, settings, limits=limits) as site:
        id = await running(site)
        big = JobEvent(EventKind.WARNING, {"message": "x" * 100_000})
        async with await site.ask("GET", f"/v1/jobs/{id}/events") as response:
            for _ in range(60):
                await site.tell(id, big, big)
                if not len(site.parts.streams):
                    break
                await asyncio.sleep(0.01)
            while len(site.parts.streams):
                await asyncio.sleep(0.01)
            response.close()
        async with await site.ask("GET", f"/v1/jobs/{id}/events?after=3") as again:
            assert (await anext(server_sent(again)))["id"] == "4"


async def test_no_reconnect_loses_or_repeats_an_event(tmp_path: Path) -> None:
    """A client that is cut off at random, by either transport, sees every number once and in order."""
    chance = random.Random(5)
    async with serving(tmp_path, limits=QueueLimits(max_events=100_000_000)) as site:
        id = await running(site)
        seen: list[int] = []
        done = asyncio.Event()

        async def work() -> None:
            step = 0
            while not done.is_set():
                if step < len(seen) + 100:  # no further ahead than what is worth reading
                    several = chance.randint(1, 5)
                    await site.tell(id, *(progress(step + index) for index in range(several)))
                    step += several
                await asyncio.sleep(chance.random() * 0.003)

        worker = asyncio.create_task(work())
        for _ in range(RECONNECTS):
            take = chance.choice((0, 1, 1, 2, 3, 7))
            if chance.random() < 0.5:
                seen += await _some_over_sse(site, id, seen[-1] if seen else 0, take)
            else:
                seen += await _some_over_websocket(site, id, seen[-1] if seen else 0, take)
        done.set()
        await worker
        await site.run_away(id)
        async with await site.ask("GET", f"/v1/jobs/{id}/events", headers={"Last-Event-ID": str(seen[-1])}) as response:
            seen += [int(fields["id"]) async for fields in server_sent(response)]
        assert seen == list(range(1, len(seen) + 1))
        assert len(seen) == len(await site.store.events(id, limit=1_000_000))


async def _some_over_sse(site: Site, id: str, after: int, take: int) -> list[int]:
    async with await site.ask("GET", f"/v1/jobs/{id}/events", headers={"Last-Event-ID": str(after)}) as response:
        stream = server_sent(response)
        found = [int((await anext(stream))["id"]) for _ in range(take)]
        response.close()
    return found


async def _some_over_websocket(site: Site, id: str, after: int, take: int) -> list[int]:
    found: list[int] = []
    async with site.client.ws_connect(f"/v1/jobs/{id}/events?after={after}") as socket:
        for _ in range(take):
            event: dict[str, Any] = await socket.receive_json()
            found.append(event["number"])
    return found
