"""Webhooks: every call that is owed is made, signed, again and again until it is answered, and nowhere it may not go."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from latentgraph.server.clock import SECOND_US
from latentgraph.server.errors import StoreUnavailable
from latentgraph.server.jobs.deliveries import Delivery, Webhooks
from latentgraph.server.jobs.store import JobStore
from latentgraph.server.webhooks.addresses import AddressRules, CheckingResolver
from latentgraph.server.webhooks.calling import WebhookSender, WebhookSettings
from latentgraph.server.webhooks.signing import secret_of, secret_text, verify

from .queue_fakes import HandClock, opened, submitted
from .web_fakes import DOCUMENT, serving

KEY = bytes(32)
HERE = AddressRules.allowing(["127.0.0.1"])
PATIENCE_SECONDS = 300.0


@dataclass
class Receiver:
    """Takes calls and answers them as it is told: statuses, the last one for all that follow."""

    statuses: list[int] = field(default_factory=lambda: [204])
    headers: Mapping[str, str] = field(default_factory=dict)
    calls: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)
    url: str = ""
    hold: asyncio.Event | None = None
    called: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.StreamResponse:
        self.calls.append((dict(request.headers), await request.read()))
        self.called.set()
        if self.hold is not None:
            await self.hold.wait()
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return web.Response(status=status, headers=self.headers)


@asynccontextmanager
async def receiving(**options: Any) -> AsyncIterator[Receiver]:
    receiver = Receiver(**options)
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", receiver.take)
    async with TestServer(app, host="127.0.0.1") as server:
        receiver.url = str(server.make_url("/done"))
        yield receiver


@asynccontextmanager
async def sending(store: JobStore, **settings: Any) -> AsyncIterator[WebhookSender]:
    resolver = settings.pop("resolver", None)
    chosen = WebhookSettings(
        **{"rules": HERE, "look": 0.01, "total": PATIENCE_SECONDS, "connect": PATIENCE_SECONDS, **settings}
    )
    sender = WebhookSender(store.webhooks, store.clock, KEY, chosen, resolver=resolver)
    await sender.start()
    try:
        yield sender
    finally:
        await sender.stop()


async def owed(store: JobStore) -> list[tuple[int, int]]:
    """Returns how often each call that is owed was tried, and in how many seconds it is due."""
    statement = "SELECT tries, due_us FROM deliveries ORDER BY id"
    rows = await store.database.read(lambda transaction: transaction.execute(statement).fetchall())
    return [(tries, round((due - store.clock()) / SECOND_US)) for tries, due in rows]


async def until(condition: Any) -> None:
    """Waits until a condition holds; a coroutine function is asked each time."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            held = condition()
            if await held if asyncio.iscoroutine(held) else held:
                return
            await asyncio.sleep(0.005)


async def none_owed(store: JobStore) -> bool:
    return await owed(store) == []


async def ended(store: JobStore, url: str) -> str:
    """Returns the id of a job that has ended and owes a call."""
    job = await submitted(store, webhook=url)
    await store.cancel(job.id)
    return job.id


async def test_a_job_that_ends_is_told_and_the_call_is_signed(tmp_path: Path) -> None:
    async with opened(tmp_path) as store, receiving() as receiver:
        url = receiver.url + "?token=x"
        id = await ended(store, url)
        async with sending(store):
            await until(lambda: none_owed(store))
        ((headers, body),) = receiver.calls
        told = json.loads(body)
        assert (told["job"], told["state"]) == (id, "cancelled")
        assert headers["Content-Type"] == "application/json"
        assert headers["webhook-id"].startswith(f"{id}.")
        verify(secret_text(secret_of(KEY, url)), headers, body, now=store.clock() / SECOND_US)
        assert not {"Cookie", "Authorization"} & set(headers)


async def test_a_call_that_fails_is_made_again_with_the_same_id_after_pauses_that_double(tmp_path: Path) -> None:
    clock = HandClock()
    async with opened(tmp_path, clock) as store, receiving(statuses=[500, 301, 404, 200]) as receiver:
        await ended(store, receiver.url)
        async with sending(store, first_pause=10.0):
            for tries, least, most in ((1, 8, 12), (2, 16, 24), (3, 32, 48)):

                async def postponed(tries: int = tries) -> bool:
                    return len(receiver.calls) == tries and all(due < 60 for _, due in await owed(store))

                await until(postponed)
                ((counted, due),) = await owed(store)
                assert counted == tries
                assert least <= due <= most
                clock.pass_seconds(due + 1)
            await until(lambda: none_owed(store))
        assert len({headers["webhook-id"] for headers, _ in receiver.calls}) == 1
        assert len({headers["webhook-timestamp"] for headers, _ in receiver.calls}) == 4


async def test_a_receiver_that_says_when_is_called_then(tmp_path: Path) -> None:
    async with opened(tmp_path) as store, receiving(statuses=[503], headers={"Retry-After": "600"}) as receiver:
        await ended(store, receiver.url)
        async with sending(store, first_pause=1.0, longest_pause=900.0):

            async def postponed() -> bool:
                return await owed(store) == [(1, 600)]

            await until(postponed)


@pytest.mark.parametrize(("status", "tries"), [(500, 3), (410, 1)])
async def test_a_call_is_given_up_after_many_tries_or_when_nobody_wants_it(
    tmp_path: Path, status: int, tries: int
) -> None:
    clock = HandClock()
    async with opened(tmp_path, clock) as store, receiving(statuses=[status]) as receiver:
        await ended(store, receiver.url)
        async with sending(store, most_tries=3):

            async def given_up() -> bool:
                clock.pass_seconds(60.0)
                return await none_owed(store)

            await until(given_up)
        assert len(receiver.calls) == tries


async def test_a_call_that_kills_the_server_each_time_is_given_up_too(tmp_path: Path) -> None:
    clock = HandClock()
    async with opened(tmp_path, clock) as store, receiving() as receiver:
        await ended(store, receiver.url)
        for _ in range(3):  # senders that die with their claim
            assert await store.webhooks.claim(10.0) is not None
            clock.pass_seconds(11.0)
        async with sending(store, most_tries=3):
            await until(lambda: none_owed(store))
        assert receiver.calls == []


async def test_a_sender_that_died_is_followed_by_one_that_makes_its_calls(tmp_path: Path) -> None:
    clock = HandClock()
    async with opened(tmp_path, clock) as store, receiving() as receiver:
        await ended(store, receiver.url)
        assert await store.webhooks.claim(30.0) is not None
        async with sending(store):
            assert await store.webhooks.claim(30.0) is None
            clock.pass_seconds(31.0)
            await until(lambda: none_owed(store))
        assert len(receiver.calls) == 1


async def test_a_receiver_that_never_answers_holds_up_no_other(tmp_path: Path) -> None:
    async with opened(tmp_path) as store, receiving(hold=asyncio.Event()) as dead, receiving() as living:
        for _ in range(6):
            await store.webhooks.enqueue("a", dead.url, "{}", owner="ann")
        async with sending(store, at_once=4, of_owner=3, of_receiver=2, stop=0.0):
            await until(lambda: len(dead.calls) == 2)
            await store.webhooks.enqueue("a", living.url, "{}", owner="ann")
            await store.webhooks.enqueue("b", living.url, "{}", owner="ben")
            await until(lambda: len(living.calls) == 2)
            assert len(dead.calls) == 2


async def test_stopping_leaves_a_call_that_is_under_way_owed_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as store, receiving(hold=asyncio.Event()) as receiver:
        await ended(store, receiver.url)
        async with sending(store, stop=0.0) as sender:
            await receiver.called.wait()
            await sender.stop()
            assert await owed(store) == [(1, 0)]
            await sender.stop()
        assert receiver.hold is not None
        receiver.hold.set()
        async with sending(store):
            await until(lambda: none_owed(store))
        assert len(receiver.calls) == 2


async def test_stopping_waits_for_a_call_that_is_nearly_done(tmp_path: Path) -> None:
    async with opened(tmp_path) as store, receiving(hold=asyncio.Event()) as receiver:
        await ended(store, receiver.url)
        async with sending(store, stop=PATIENCE_SECONDS) as sender:
            await receiver.called.wait()
            stopping = asyncio.create_task(sender.stop())
            await asyncio.sleep(0)
            assert receiver.hold is not None
            receiver.hold.set()
            await stopping
        assert await none_owed(store)
        assert len(receiver.calls) == 1


async def test_so_many_calls_are_under_way_at_once_and_no_more(tmp_path: Path) -> None:
    async with opened(tmp_path) as store, receiving(hold=asyncio.Event()) as receiver:
        for _ in range(7):
            await ended(store, receiver.url)
        async with sending(store, at_once=3):
            await until(lambda: len(receiver.calls) == 3)
            assert sorted(due > 0 for _, due in await owed(store)) == [False] * 4 + [True] * 3
            assert receiver.hold is not None
            receiver.hold.set()
            await until(lambda: none_owed(store))
        assert len({headers["webhook-id"] for headers, _ in receiver.calls}) == 7


async def test_a_redirection_leads_nowhere(tmp_path: Path) -> None:
    async with opened(tmp_path) as store, receiving() as other:
        async with receiving(statuses=[307], headers={"Location": other.url}) as receiver:
            await ended(store, receiver.url)
            async with sending(store):
                await until(lambda: len(receiver.calls) == 1)
        assert other.calls == []
        assert [tries for tries, _ in await owed(store)] == [1]


async def test_a_proxy_of_the_environment_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as store, receiving() as proxy, receiving() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        await ended(store, receiver.url)
        async with sending(store):
            await until(lambda: none_owed(store))
        assert (len(receiver.calls), proxy.calls) == (1, [])


async def test_a_receiver_that_does_not_answer_is_left(tmp_path: Path) -> None:
    async with opened(tmp_path) as store, receiving(hold=asyncio.Event()) as receiver:
        await ended(store, receiver.url)
        async with sending(store, total=0.05):
            await until(lambda: _postponed(store))
        assert receiver.hold is not None
        receiver.hold.set()


async def _postponed(store: JobStore) -> bool:
    return any(tries == 1 and due < 20 for tries, due in await owed(store))


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000,
    ],
)
async def test_what_answers_otherwise_is_a_failure_and_bounded(tmp_path: Path, answer: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with opened(tmp_path) as store, server:
        await ended(store, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        async with sending(store):
            await until(lambda: _postponed(store))


async def test_an_answer_without_end_is_not_read(tmp_path: Path) -> None:
    written = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * (1 << 16))
                await writer.drain()
                written += 1 << 16
        except OSError:
            writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    async with opened(tmp_path) as store, server:
        await ended(store, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        async with sending(store):
            await until(lambda: none_owed(store))
    assert written < 1 << 28


async def test_private_addresses_are_not_called_whatever_stands_for_them(tmp_path: Path) -> None:
    """By number, by a name, and by a name that was public when it was looked up the first time."""
    port = 0

    def getaddrinfo(host: str, *_: object) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async with opened(tmp_path) as store, receiving() as receiver:
        port = int(receiver.url.rpartition(":")[2].partition("/")[0])
        for host in ("127.0.0.1", "[::ffff:127.0.0.1]", "2130706433", "127.1", "rebound.example", "localhost"):
            await ended(store, f"http://{host}:{port}/")
        resolver = CheckingResolver(AddressRules(), getaddrinfo)
        async with sending(store, rules=AddressRules(), resolver=resolver):

            async def all_refused() -> bool:
                return all(tries == 1 and due < 20 for tries, due in await owed(store))

            await until(all_refused)
            assert len(await owed(store)) == 6
        assert receiver.calls == []


async def test_a_resolver_that_is_fooled_does_not_get_past_the_last_gate(tmp_path: Path) -> None:
    class Fooled(CheckingResolver):
        async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> Any:
            found = {
                "hostname": host,
                "host": "127.0.0.1",
                "port": port,
                "family": socket.AF_INET,
                "proto": 0,
                "flags": 0,
            }
            return [found]

    async with opened(tmp_path) as store, receiving() as receiver:
        await ended(store, receiver.url.replace("127.0.0.1", "public.example"))
        async with sending(store, rules=AddressRules(), resolver=Fooled(AddressRules())):
            await until(lambda: _postponed(store))
        assert receiver.calls == []


async def test_a_store_that_can_not_be_written_for_a_while_costs_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [StoreUnavailable("disk full"), RuntimeError("odd")]
    claim = Webhooks.claim

    async def failing(self: Webhooks, lease_seconds: float, **among: Any) -> Delivery | None:
        if failures:
            raise failures.pop()
        return await claim(self, lease_seconds, **among)

    monkeypatch.setattr(Webhooks, "claim", failing)
    async with opened(tmp_path) as store, receiving() as receiver:
        await ended(store, receiver.url)
        async with sending(store):
            await until(lambda: none_owed(store))
        assert len(receiver.calls) == 1


async def test_a_call_whose_end_can_not_be_kept_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, settle, failures = HandClock(), Webhooks.settle, [StoreUnavailable("disk full")]

    async def failing(self: Webhooks, id: int) -> None:
        if failures:
            raise failures.pop()
        await settle(self, id)

    monkeypatch.setattr(Webhooks, "settle", failing)
    async with opened(tmp_path, clock) as store, receiving() as receiver:
        await ended(store, receiver.url)
        async with sending(store, total=5.0):
            await until(lambda: not failures)
            clock.pass_seconds(60.0)
            await until(lambda: none_owed(store))
        assert len({headers["webhook-id"] for headers, _ in receiver.calls}) == 1
        assert len(receiver.calls) == 2


async def test_a_sender_ends_with_its_store(tmp_path: Path) -> None:
    async with opened(tmp_path) as store, sending(store):
        await store.close()


async def test_over_http_a_webhook_is_checked_with_the_job_and_called_at_its_end(tmp_path: Path) -> None:
    settings = WebhookSettings(rules=HERE, look=0.01)
    checker = WebhookSender(None, lambda: 0, KEY, settings)  # type: ignore[arg-type]
    async with receiving() as receiver, serving(tmp_path, check_webhook=checker.check) as site:
        for url in ("http://10.0.0.1/", "http://[::1]/", "ftp://example.com", "no address"):
            body = {"document": DOCUMENT, "webhook": url}
            problem = await site.problem("POST", "/v1/jobs", 422, "invalid-request", json=body)
            assert "webhook" in problem["detail"]
        job = await site.submit(webhook=receiver.url)
        async with sending(site.store):
            await site.run_next()
            await until(lambda: len(receiver.calls) == 1)
        assert json.loads(receiver.calls[0][1])["job"] == job["id"]
        assert json.loads(receiver.calls[0][1])["state"] == "succeeded"
