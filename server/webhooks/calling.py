"""Webhooks: tells addresses that jobs have ended. A call that is owed is made at least once, or given up after many tries.

What is owed lies in the store from the commit on that ends a job, so no crash loses it: a sender claims a call for a time,
makes it, and settles it; a claim that is not settled ends, and the call is made again. Receivers know a call by its id
(`signing`). An answer of 200 to 299 is success; 410 says that nobody wants the call any more; anything else is tried again
after a pause that doubles. No redirection is followed, no proxy asked, no cookie kept, and no body of an answer is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from dataclasses import dataclass, field

import aiohttp

from ..clock import SECOND_US, Clock
from ..errors import StoreClosed, StoreUnavailable
from ..jobs.deliveries import Delivery, Places, Webhooks
from .addresses import AddressRefused, AddressRules, CheckingResolver, ConnectionForbidden, socket_maker
from .signing import secret_of, sign

_GONE = 410

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """How calls are made. Times are in seconds.

    rules: where they may go. most_tries: after which a call is given up; with the pauses below that is half a day.
    first_pause, longest_pause: between tries, doubled each time. connect, total: how long a connection and a whole call may
    take. at_once: calls under way together; of_owner, of_receiver: those of one owner of jobs, and those of an owner's to one
    host, so that nobody waits for the receivers of others. look: how often the store is looked at. stop: how long calls that
    are under way get when the server ends; what is not done then is done after the next start.
    """

    rules: AddressRules = field(default_factory=AddressRules)
    most_tries: int = 20
    first_pause: float = 5.0
    longest_pause: float = 3600.0
    connect: float = 5.0
    total: float = 10.0
    at_once: int = 8
    of_owner: int = 6
    of_receiver: int = 3
    look: float = 1.0
    stop: float = 2.0

    @property
    def lease(self) -> float:
        """How long a call is kept from other senders."""
        return self.total + self.stop + 30.0

    def pause_after(self, tries: int) -> float:
        """Returns the pause after some tries, a little different each time, so that many calls do not come together."""
        return min(self.first_pause * 2.0 ** min(tries - 1, 30), self.longest_pause) * random.uniform(0.8, 1.2)


class WebhookSender:
    """Makes the calls that a store owes, from `start` to `stop`. key: see `signing`."""

    def __init__(
        self,
        webhooks: Webhooks,
        clock: Clock,
        key: bytes,
        settings: WebhookSettings = WebhookSettings(),
        *,
        resolver: CheckingResolver | None = None,
    ) -> None:
        self._webhooks, self._clock, self._key, self._settings = webhooks, clock, key, settings
        self._resolver = resolver or CheckingResolver(settings.rules)
        self._session: aiohttp.ClientSession | None = None
        self._looking: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()
        self._calls: dict[asyncio.Task[None], Delivery] = {}

    async def start(self) -> None:
        """Begins to make calls."""
        self._session = self._open_session()
        self._looking = asyncio.create_task(self._run(), name="webhooks")

    async def stop(self) -> None:
        """Ends within a moment; what is still under way is owed as before. It may be repeated."""
        self._ending.set()
        if self._looking is not None:
            await self._looking
            self._looking = None
        if self._calls:
            await asyncio.wait(self._calls, timeout=self._settings.stop)
        unfinished = dict(self._calls)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        with contextlib.suppress(
            StoreUnavailable, StoreClosed
        ):  # then they are owed again once their claims have ended
            for delivery in unfinished.values():
                await self._webhooks.postpone(delivery.id, 0.0)
        if self._session is not None:
            await self._session.close()
            await self._resolver.close()
            self._session = None

    async def check(self, url: str) -> None:
        """Raises AddressRefused for an address that is not called. What a name stands for is looked at in each call."""
        self._settings.rules.check(url)

    async def _run(self) -> None:
        places = Places(of_owner=self._settings.of_owner, of_receiver=self._settings.of_receiver)
        while not self._ending.is_set():
            if len(self._calls) >= self._settings.at_once:
                await asyncio.wait(self._calls, timeout=self._settings.look, return_when=asyncio.FIRST_COMPLETED)
                continue
            try:
                delivery = await self._webhooks.claim(
                    self._settings.lease, under_way=list(self._calls.values()), places=places
                )
            except StoreClosed:
                return
            except Exception as error:  # noqa: BLE001 - what is owed stays owed, and the next look may go better
                _log.error("the webhooks that are owed can't be looked for: %s", error)
                delivery = None
            if delivery is not None:
                task = asyncio.create_task(self._make(delivery))
                self._calls[task] = delivery
                task.add_done_callback(lambda done: self._calls.pop(done, None))
            else:
                await self._look_later()

    async def _look_later(self) -> None:
        """Waits for the time of the next look, the end of a call, which leaves a place to others, or the end of the server."""
        ending = asyncio.create_task(self._ending.wait())
        await asyncio.wait((ending, *self._calls), timeout=self._settings.look, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()

    async def _make(self, delivery: Delivery) -> None:
        """Makes a call and settles it, or sees to it that it is made again."""
        extra = {"job": delivery.job}
        try:
            failure, pause = await self._post(delivery)
            if failure is None:
                await self._webhooks.settle(delivery.id)
                _log.info("job %s: its webhook was called", delivery.job, extra=extra)
            elif pause is None or delivery.tries >= self._settings.most_tries:
                await self._webhooks.settle(delivery.id)
                words = "job %s: its webhook is given up after %d tries: %s"
                _log.warning(words, delivery.job, delivery.tries, failure, extra=extra)
            else:
                await self._webhooks.postpone(delivery.id, pause)
                words = "job %s: its webhook failed and is called again in %.0f s: %s"
                _log.info(words, delivery.job, pause, failure, extra=extra)
        except (StoreUnavailable, StoreClosed) as error:
            _log.warning("job %s: what came of its webhook can't be kept (%s); it is called again", delivery.job, error)

    async def _post(self, delivery: Delivery) -> tuple[str | None, float | None]:
        """Makes a call. Returns why it failed, None if it did not, and in how many seconds it may be made again, if at all."""
        if delivery.tries > self._settings.most_tries:
            return "its last try did not come to an end", None
        pause = self._settings.pause_after(delivery.tries)
        assert self._session is not None
        try:
            url = self._settings.rules.check(delivery.url)
            async with self._session.post(
                url, data=delivery.body.encode(), headers=self._headers(delivery), allow_redirects=False
            ) as response:
                response.close()  # the status is all that counts
                if 200 <= response.status < 300:
                    return None, None
                if response.status == _GONE:
                    return "it answers that it is gone", None
                asked = _seconds(response.headers.get("Retry-After", ""))
                return f"it answers {response.status}", max(pause, min(asked, self._settings.longest_pause))
        except AddressRefused as error:
            return str(error), pause
        except TimeoutError:
            return "it does not answer in time", pause
        except aiohttp.ClientConnectorError as error:
            reason = error.os_error
            refused = isinstance(reason, ConnectionForbidden)
            return str(reason) if refused else f"it can't be reached ({reason.strerror or reason})", pause
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return f"the call broke off ({type(error).__name__})", pause
        except Exception:  # noqa: BLE001 - a fault here must not hold up the other calls
            _log.exception("job %s: its webhook can't be called", delivery.job)
            return "the server failed to call it", pause

    def _headers(self, delivery: Delivery) -> dict[str, str]:
        id, now = f"{delivery.job}.{delivery.id}", self._clock() // SECOND_US
        signed = sign(secret_of(self._key, delivery.url), id, now, delivery.body.encode())
        return {"Content-Type": "application/json", **signed}

    def _open_session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            resolver=self._resolver,
            socket_factory=socket_maker(self._settings.rules),
            use_dns_cache=False,
            force_close=True,
            limit=self._settings.at_once,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._settings.total, sock_connect=self._settings.connect),
            headers={"User-Agent": "latentgraph", "Accept": "*/*", "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
            read_bufsize=1 << 12,
        )


def _seconds(retry_after: str) -> float:
    text = retry_after.strip()
    return float(text[:9]) if text.isascii() and text.isdecimal() else 0.0
