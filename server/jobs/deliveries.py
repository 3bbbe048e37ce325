"""The webhook calls that are owed: claimed by one sender for a time, and settled or tried again.

A job that has a webhook owes a call from the commit on that ends it. Whether a call was answered is not known here. No owner
waits for another's receivers: the owner with the fewest calls under way comes first, and neither an owner nor a receiver may
take every place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..clock import SECOND_US, Clock
from .database import Database, Transaction

_OWNERS_AND_DUE = """WITH RECURSIVE owners (owner) AS (
        SELECT min(owner) FROM deliveries
        UNION ALL
        SELECT (SELECT min(owner) FROM deliveries WHERE deliveries.owner > owners.owner) FROM owners
            WHERE owners.owner IS NOT NULL
    )
    SELECT owner, (SELECT min(due_us) FROM deliveries WHERE deliveries.owner = owners.owner) AS due FROM owners
    WHERE owner IS NOT NULL AND due <= ?"""
_ALL_PLACES = 1 << 30


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook call that is owed. owner: of the job. host: of the url, with port. tries: those that began, this one too."""

    id: int
    job: str
    owner: str
    host: str
    url: str
    body: str
    tries: int
    created_us: int


@dataclass(frozen=True, slots=True)
class Places:
    """How many calls may be under way together for one owner, and for one receiver of an owner's."""

    of_owner: int = _ALL_PLACES
    of_receiver: int = _ALL_PLACES


class Webhooks:
    """The calls that are owed."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def enqueue(self, job: str, url: str, body: str, *, owner: str = "") -> int:
        """Owes a call; returns its number."""
        return await self._database.write(
            lambda transaction: owe_call(transaction, job, owner, url, body, self._clock())
        )

    async def claim(
        self, lease_seconds: float, *, under_way: Sequence[Delivery] = (), places: Places = Places()
    ) -> Delivery | None:
        """Returns the call whose turn it is, and keeps it from other claims until the lease ends; None if none may be made.

        It is the one due longest of the owner with the fewest calls under way who has a place left.
        """
        owners = Counter(delivery.owner for delivery in under_way)
        receivers = Counter((delivery.owner, delivery.host) for delivery in under_way)
        full = [receiver for receiver, count in receivers.items() if count >= places.of_receiver]

        def claim(transaction: Transaction) -> Delivery | None:
            now = self._clock()
            waiting = transaction.execute(_OWNERS_AND_DUE, (now,)).fetchall()
            for owner, _ in sorted(waiting, key=lambda row: (owners[row[0]], row[1])):
                if owners[owner] < places.of_owner:
                    hosts = [host for of, host in full if of == owner]
                    if (found := _first_due(transaction, owner, hosts, now)) is not None:
                        until = now + round(lease_seconds * SECOND_US)
                        statement = "UPDATE deliveries SET tries = tries + 1, due_us = ? WHERE id = ?"
                        transaction.execute(statement, (until, found.id))
                        return found
            return None

        return await self._database.write(claim)

    async def settle(self, id: int) -> None:
        """A call was answered, or is given up: it is owed no more."""
        await self._database.write(
            lambda transaction: transaction.execute("DELETE FROM deliveries WHERE id = ?", (id,)) and None
        )

    async def postpone(self, id: int, seconds: float) -> None:
        """A call failed: it is due again in some time."""

        def postpone(transaction: Transaction) -> None:
            due = self._clock() + round(seconds * SECOND_US)
            transaction.execute("UPDATE deliveries SET due_us = ? WHERE id = ?", (due, id))

        await self._database.write(postpone)

    async def give_up(self, max_age_seconds: float | None, max_owed: int | None) -> int:
        """Owes no more what is older, or, from the oldest on, more than that; returns how many calls that are."""

        def give_up(transaction: Transaction) -> int:
            given_up = 0
            if max_age_seconds is not None:
                before = self._clock() - round(max_age_seconds * SECOND_US)
                given_up += transaction.execute("DELETE FROM deliveries WHERE created_us <= ?", (before,)).rowcount
            if max_owed is not None:
                statement = """DELETE FROM deliveries WHERE id IN
                    (SELECT id FROM deliveries ORDER BY id LIMIT max(0, (SELECT count(*) FROM deliveries) - ?))"""
                given_up += transaction.execute(statement, (max_owed,)).rowcount
            return given_up

        return await self._database.write(give_up)


def owe_call(transaction: Transaction, job: str, owner: str, url: str, body: str, now_us: int) -> int:
    """Writes that a webhook call is owed; returns its number."""
    number = transaction.execute(
        "INSERT INTO deliveries (job, owner, host, url, body, created_us, due_us) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (job, owner, _host(url), url, body, now_us, now_us),
    ).lastrowid
    assert number is not None
    return number


def _first_due(transaction: Transaction, owner: str, full: Sequence[str], now_us: int) -> Delivery | None:
    """Returns an owner's call that is due longest, to a host that is not full; None if there is none."""
    row = transaction.row(
        f"""SELECT id, job, owner, host, url, body, tries + 1, created_us FROM deliveries
        WHERE owner = ? AND due_us <= ? AND host NOT IN ({", ".join("?" * len(full))}) ORDER BY due_us, id LIMIT 1""",
        (owner, now_us, *full),
    )
    return None if row is None else Delivery(*row)


def _host(url: str) -> str:
    """Returns the host and port of an address; nothing for what is none, which is refused when it is called."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2].lower()
    except ValueError:
        return ""
