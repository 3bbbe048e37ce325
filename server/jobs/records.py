"""What the store keeps beside jobs: workflows, tokens, uploads and webhooks, each with its small table.

Every write is durable when it returns. Whether a workflow is valid, a token may do something, or a webhook was answered is
not known here. They need a database and no store: so a command can make tokens beside a running server, which has the folder.
"""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import asdict, dataclass
from typing import Any

from ..clock import SECOND_US, Clock
from ..errors import QuotaExceeded, UnknownWorkflow
from .database import Database, Transaction
from .rows import is_storable

_WORKFLOW = "SELECT name, document, media_type, sha256, updated_us FROM workflows"
_TOKEN = """SELECT id, name, sha256, scopes, created_us, revoked_us, max_waiting, max_upload_bytes, requests_per_minute
    FROM tokens"""
_UPLOAD = "SELECT owner, sha256, size, media_type, created_us FROM uploads"
_LATER_SECONDS = 3600  # when to try an upload again that was over the quota: somebody has to remove one first


@dataclass(frozen=True, slots=True)
class StoredWorkflow:
    """A document under a name. media_type: how the text is written. sha256: of the text, as its ETag."""

    name: str
    document: str
    media_type: str
    sha256: str
    updated_us: int


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


@dataclass(frozen=True, slots=True)
class StoredUpload:
    """A file by content that an owner has sent."""

    owner: str
    sha256: str
    size: int
    media_type: str
    created_us: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What an owner's uploads take."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook call that is owed. tries: those that began, this one included."""

    id: int
    job: str
    url: str
    body: str
    tries: int
    created_us: int


class Workflows:
    """The stored workflows, by name."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def put(self, name: str, document: str, media_type: str) -> tuple[StoredWorkflow, bool]:
        """Stores a document under a name, in place of the one it had; returns it, and whether the name is new."""
        sha256 = hashlib.sha256(document.encode()).hexdigest()

        def put(transaction: Transaction) -> tuple[StoredWorkflow, bool]:
            workflow = StoredWorkflow(name, document, media_type, sha256, self._clock())
            created = transaction.row("SELECT 1 FROM workflows WHERE name = ?", (name,)) is None
            transaction.execute(
                "INSERT OR REPLACE INTO workflows (name, document, media_type, sha256, updated_us) VALUES (?, ?, ?, ?, ?)",
                (name, document, media_type, sha256, workflow.updated_us),
            )
            return workflow, created

        return await self._database.write(put)

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


class Uploads:
    """Which owner has sent which content."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def put(
        self, owner: str, sha256: str, size: int, media_type: str, *, max_bytes: int | None = None
    ) -> StoredUpload:
        """Notes that an owner has a file; it may be repeated. Raises QuotaExceeded if all would take more than `max_bytes`."""

        def put(transaction: Transaction) -> StoredUpload:
            row = transaction.row(f"{_UPLOAD} WHERE owner = ? AND sha256 = ?", (owner, sha256))
            if row is not None:
                return StoredUpload(*row)
            if max_bytes is not None and _usage(transaction, owner).bytes + size > max_bytes:
                raise QuotaExceeded("bytes of uploads", max_bytes, _LATER_SECONDS)
            upload = StoredUpload(owner, sha256, size, media_type, self._clock())
            transaction.execute(
                "INSERT INTO uploads (owner, sha256, size, media_type, created_us) VALUES (?, ?, ?, ?, ?)",
                (owner, sha256, size, media_type, upload.created_us),
            )
            return upload

        return await self._database.write(put)

    async def get(self, owner: str | None, sha256: str) -> StoredUpload | None:
        """Returns an owner's file, anybody's if `owner` is None; None if it has not sent it."""
        statement = f"{_UPLOAD} WHERE sha256 = ? AND (? IS NULL OR owner = ?) LIMIT 1"
        row = await self._database.read(lambda transaction: transaction.row(statement, (sha256, owner, owner)))
        return None if row is None else StoredUpload(*row)

    async def usage(self, owner: str) -> Usage:
        """Returns what the owner's files take."""
        return await self._database.read(lambda transaction: _usage(transaction, owner))

    async def remove(self, owner: str, sha256: str) -> bool:
        """Forgets an owner's file; returns whether nobody has it any more, so that its bytes can go."""

        def remove(transaction: Transaction) -> bool:
            transaction.execute("DELETE FROM uploads WHERE owner = ? AND sha256 = ?", (owner, sha256))
            return transaction.row("SELECT 1 FROM uploads WHERE sha256 = ?", (sha256,)) is None

        return await self._database.write(remove)


class Webhooks:
    """The webhook calls that are owed: claimed by one sender for a time, and settled or tried again.

    A job that has a webhook owes a call from the commit on that ends it.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def enqueue(self, job: str, url: str, body: str) -> int:
        """Owes a call; returns its number."""
        return await self._database.write(lambda transaction: owe_call(transaction, job, url, body, self._clock()))

    async def claim(self, lease_seconds: float) -> Delivery | None:
        """Returns the call that is due longest, and keeps it from other claims until the lease ends; None if none is due."""

        def claim(transaction: Transaction) -> Delivery | None:
            now = self._clock()
            row = transaction.row(
                """SELECT id, job, url, body, tries + 1, created_us FROM deliveries
                WHERE due_us <= ? ORDER BY due_us, id LIMIT 1""",
                (now,),
            )
            if row is None:
                return None
            until = now + round(lease_seconds * SECOND_US)
            transaction.execute("UPDATE deliveries SET tries = tries + 1, due_us = ? WHERE id = ?", (until, row["id"]))
            return Delivery(*row)

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


def owe_call(transaction: Transaction, job: str, url: str, body: str, now_us: int) -> int:
    """Writes that a webhook call is owed; returns its number."""
    number = transaction.execute(
        "INSERT INTO deliveries (job, url, body, created_us, due_us) VALUES (?, ?, ?, ?, ?)",
        (job, url, body, now_us, now_us),
    ).lastrowid
    assert number is not None
    return number


def _usage(transaction: Transaction, owner: str) -> Usage:
    row = transaction.row("SELECT count(*), coalesce(sum(size), 0) FROM uploads WHERE owner = ?", (owner,))
    return Usage(0, 0) if row is None else Usage(*row)


def _token(row: sqlite3.Row) -> StoredToken:
    values: dict[str, Any] = {name: row[name] for name in row.keys()}  # noqa: SIM118 - a row iterates over its values
    return StoredToken(**values | {"scopes": frozenset(values["scopes"].split())})
