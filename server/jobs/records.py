"""What the store keeps beside jobs: workflows and tokens, each with its small table. `uploads` and `deliveries` have the rest.

Every write is durable when it returns. Whether a workflow is valid, or what a token may do, is not known here. They need a
database and no store: so a command can make tokens beside a running server, which has the folder.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..clock import Clock
from ..errors import UnknownWorkflow
from .database import Database, Transaction
from .rows import is_storable

_WORKFLOW = "SELECT name, document, media_type, sha256, updated_us FROM workflows"
_TOKEN = """SELECT id, name, sha256, scopes, created_us, revoked_us, max_waiting, max_upload_bytes, requests_per_minute
    FROM tokens"""


@dataclass(frozen=True, slots=True)
class StoredWorkflow:
    """A document under a name. media_type: how the text is written. sha256: of the text, as its ETag."""

    name: str
    document: str
    media_type: str
    sha256: str
    updated_us: int


@dataclass(frozen=True, slots=True)
class Seed:
    """A workflow to store. uploads: the digests of those that it names."""

    name: str
    document: str
    media_type: str
    uploads: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class StoredToken:
    """Who may do what. id: the owner of its jobs and files. sha256: of the token's text, which is kept nowhere.

    max_waiting, max_upload_bytes, requests_per_minute: its quotas; None takes the server's.
    """

    id: str
    name: str
    sha256: str
    scopes: frozenset[str]
    created_us: int
    revoked_us: int | None = None
    max_waiting: int | None = None
    max_upload_bytes: int | None = None
    requests_per_minute: int | None = None


class Workflows:
    """The stored workflows, by name."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def put(
        self, name: str, document: str, media_type: str, uploads: Iterable[str] = ()
    ) -> tuple[StoredWorkflow, bool]:
        """Stores a document under a name, in place of the one it had; returns it, and whether the name is new.

        uploads: the digests of those that it names; they are kept as long as it is, and for all who may read it.
        """
        seed = Seed(name, document, media_type, frozenset(uploads))

        def put(transaction: Transaction) -> tuple[StoredWorkflow, bool]:
            created = transaction.row("SELECT 1 FROM workflows WHERE name = ?", (name,)) is None
            return _put(transaction, seed, self._clock()), created

        return await self._database.write(put)

    async def are_seeded(self) -> bool:
        """Returns whether the workflows that a store begins with were stored, once and for all."""
        return await self._database.read(_are_seeded)

    async def seed(self, seeds: Iterable[Seed]) -> Sequence[str]:
        """Stores what a store begins with, but for names that are taken, and returns the names. It is done once alone."""

        def seed(transaction: Transaction) -> list[str]:
            stored: list[str] = []
            for one in [] if _are_seeded(transaction) else seeds:
                if transaction.row("SELECT 1 FROM workflows WHERE name = ?", (one.name,)) is None:
                    _put(transaction, one, self._clock())
                    stored.append(one.name)
            transaction.execute("INSERT OR REPLACE INTO settings (name, value) VALUES ('seeded', '1')")
            return stored

        return await self._database.write(seed)

    async def get(self, name: str) -> StoredWorkflow:
        """Returns a workflow. Raises UnknownWorkflow."""
        if not is_storable(name):
            raise UnknownWorkflow(name)
        row = await self._database.read(lambda transaction: transaction.row(f"{_WORKFLOW} WHERE name = ?", (name,)))
        if row is None:
            raise UnknownWorkflow(name)
        return StoredWorkflow(*row)

    async def list(self, after: str = "", limit: int = 100) -> tuple[StoredWorkflow, ...]:
        """Returns workflows in the order of their names, from the one that follows `after`."""
        statement = f"{_WORKFLOW} WHERE name > ? ORDER BY name LIMIT ?"
        wanted = (after if is_storable(after) else "", max(limit, 0))
        rows = await self._database.read(lambda transaction: transaction.execute(statement, wanted).fetchall())
        return tuple(StoredWorkflow(*row) for row in rows)

    async def delete(self, name: str) -> None:
        """Removes a workflow. Raises UnknownWorkflow."""

        def delete(transaction: Transaction) -> None:
            if (
                not is_storable(name)
                or not transaction.execute("DELETE FROM workflows WHERE name = ?", (name,)).rowcount
            ):
                raise UnknownWorkflow(name)

        await self._database.write(delete)


class Tokens:
    """The tokens, by the digest of their text. Revoked ones stay, for the jobs that they own."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def put(self, token: StoredToken) -> None:
        """Keeps a token, in place of the one that had its id."""
        row = asdict(token) | {"scopes": " ".join(sorted(token.scopes))}
        statement = f"INSERT OR REPLACE INTO tokens ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"
        await self._database.write(lambda transaction: transaction.execute(statement, tuple(row.values())) and None)

    async def find(self, sha256: str) -> StoredToken | None:
        """Returns the token with the digest, revoked or not; None if there is none."""
        row = await self._database.read(lambda transaction: transaction.row(f"{_TOKEN} WHERE sha256 = ?", (sha256,)))
        return None if row is None else _token(row)

    async def exist(self) -> bool:
        """Returns whether there is a token, revoked or not."""
        return bool(
            await self._database.read(lambda transaction: transaction.value("SELECT EXISTS (SELECT 1 FROM tokens)"))
        )

    async def list(self) -> tuple[StoredToken, ...]:
        """Returns all tokens, the oldest first."""
        statement = f"{_TOKEN} ORDER BY created_us, id"
        rows = await self._database.read(lambda transaction: transaction.execute(statement).fetchall())
        return tuple(map(_token, rows))

    async def revoke(self, id: str) -> bool:
        """Revokes a token from now on; returns whether there is one of that id. It may be repeated."""
        statement = "UPDATE tokens SET revoked_us = coalesce(revoked_us, ?) WHERE id = ?"
        return await self._database.write(
            lambda transaction: transaction.execute(statement, (self._clock(), id)).rowcount > 0
        )


def _put(transaction: Transaction, seed: Seed, now_us: int) -> StoredWorkflow:
    sha256 = hashlib.sha256(seed.document.encode()).hexdigest()
    transaction.execute("DELETE FROM workflows WHERE name = ?", (seed.name,))
    transaction.execute(
        "INSERT INTO workflows (name, document, media_type, sha256, updated_us) VALUES (?, ?, ?, ?, ?)",
        (seed.name, seed.document, seed.media_type, sha256, now_us),
    )
    named = [(seed.name, digest) for digest in sorted(seed.uploads)]
    transaction.execute_all("INSERT INTO workflow_uploads (workflow, sha256) VALUES (?, ?)", named)
    return StoredWorkflow(seed.name, seed.document, seed.media_type, sha256, now_us)


def _are_seeded(transaction: Transaction) -> bool:
    return bool(transaction.value("SELECT value FROM settings WHERE name = 'seeded'") == "1")


def _token(row: sqlite3.Row) -> StoredToken:
    values: dict[str, Any] = {name: row[name] for name in row.keys()}  # noqa: SIM118 - a row iterates over its values
    return StoredToken(**values | {"scopes": frozenset(values["scopes"].split())})
