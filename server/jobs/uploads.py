"""Which owner has sent which content, and what still needs it. The bytes are `files.uploads`' to keep.

An upload is in use as long as a job or a stored workflow is there that names it. One that a stored workflow names is for
everybody who may read workflows: whoever stored it meant it so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..clock import SECOND_US, Clock
from ..errors import QuotaExceeded
from .database import Database, Transaction

_UPLOAD = "SELECT owner, sha256, size, media_type, created_us, used_us FROM uploads"
_UNUSED = """SELECT owner, sha256, size, used_us FROM uploads
    WHERE used_us <= ? AND NOT EXISTS (SELECT 1 FROM job_uploads WHERE job_uploads.sha256 = uploads.sha256)
    AND NOT EXISTS (SELECT 1 FROM workflow_uploads WHERE workflow_uploads.sha256 = uploads.sha256)
    ORDER BY used_us LIMIT ?"""
_ALL_BYTES = "SELECT coalesce(sum(size), 0) FROM (SELECT max(size) AS size FROM uploads GROUP BY sha256)"
_LATER_SECONDS = 3600  # when to try an upload again that was over the quota: somebody has to remove one first
_STEP = 50  # uploads removed by one operation of the writer, so that submits wait for no more


@dataclass(frozen=True, slots=True)
class StoredUpload:
    """A file by content that an owner has sent. used_us: when it was sent or asked for last, to the hour."""

    owner: str
    sha256: str
    size: int
    media_type: str
    created_us: int
    used_us: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What an owner's uploads take."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class UploadPolicy:
    """What is kept of uploads that nothing needs: for so long, and, of all uploads, so many bytes. None is no bound.

    least_age_seconds: nothing younger goes, so that who has just sent a file can submit the job that names it.
    """

    max_age_seconds: float | None = 7 * 86400.0
    max_bytes: int | None = 20 << 30
    least_age_seconds: float = 2 * 3600.0


class Uploads:
    """The notes on uploads."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def put(
        self, owner: str, sha256: str, size: int, media_type: str, *, max_bytes: int | None = None
    ) -> StoredUpload:
        """Notes that an owner has a file; it may be repeated. Raises QuotaExceeded if all would take more than `max_bytes`."""

        def put(transaction: Transaction) -> StoredUpload:
            now = self._clock()
            row = transaction.row(f"{_UPLOAD} WHERE owner = ? AND sha256 = ?", (owner, sha256))
            if row is not None:
                _touch(transaction, owner, sha256, now)
                return StoredUpload(*row)
            if max_bytes is not None and _usage(transaction, owner).bytes + size > max_bytes:
                raise QuotaExceeded("bytes of uploads", max_bytes, _LATER_SECONDS)
            transaction.execute(
                "INSERT INTO uploads (owner, sha256, size, media_type, created_us, used_us) VALUES (?, ?, ?, ?, ?, ?)",
                (owner, sha256, size, media_type, now, now),
            )
            return StoredUpload(owner, sha256, size, media_type, now, now)

        return await self._database.write(put)

    async def get(self, owner: str | None, sha256: str) -> StoredUpload | None:
        """Returns a file that an owner may use: its own, or one of a stored workflow; anybody's if `owner` is None."""
        statement = f"""{_UPLOAD} WHERE sha256 = :sha256 AND (:owner IS NULL OR owner = :owner
            OR EXISTS (SELECT 1 FROM workflow_uploads WHERE workflow_uploads.sha256 = :sha256))
            ORDER BY owner = :owner DESC LIMIT 1"""
        wanted = {"owner": owner, "sha256": sha256}
        row = await self._database.read(lambda transaction: transaction.row(statement, wanted))
        return None if row is None else StoredUpload(*row)

    async def touch(self, upload: StoredUpload) -> None:
        """Notes that a file was asked for, so that it is kept for another while; not more than once an hour."""
        now = self._clock()
        if now - upload.used_us >= 3600 * SECOND_US:
            await self._database.write(lambda transaction: _touch(transaction, upload.owner, upload.sha256, now))

    async def usage(self, owner: str) -> Usage:
        """Returns what the owner's files take."""
        return await self._database.read(lambda transaction: _usage(transaction, owner))

    async def remove(self, owner: str, sha256: str) -> bool:
        """Forgets an owner's file; returns whether nobody has it any more, so that its bytes can go."""

        def remove(transaction: Transaction) -> bool:
            _remove(transaction, owner, sha256)
            return _is_gone(transaction, sha256)

        return await self._database.write(remove)

    async def remove_unused(self, policy: UploadPolicy) -> tuple[int, Sequence[str]]:
        """Forgets some of what the policy does not keep, the longest unused first.

        Returns how many notes went, 0 once there is no more to do, and the digests that nobody has any more.
        """
        return await self._database.write(lambda transaction: _remove_unused(transaction, policy, self._clock()))

    async def digests(self) -> frozenset[str]:
        """Returns the digests of all that anybody has."""
        rows = await self._database.read(
            lambda transaction: transaction.execute("SELECT DISTINCT sha256 FROM uploads").fetchall()
        )
        return frozenset(sha256 for (sha256,) in rows)


def _remove_unused(transaction: Transaction, policy: UploadPolicy, now_us: int) -> tuple[int, list[str]]:
    removed, gone = 0, []
    size = transaction.value(_ALL_BYTES)
    before_us = now_us - round(policy.least_age_seconds * SECOND_US)
    for owner, sha256, nbytes, used_us in transaction.execute(_UNUSED, (before_us, _STEP)).fetchall():
        too_old = policy.max_age_seconds is not None and used_us <= now_us - policy.max_age_seconds * SECOND_US
        too_much = policy.max_bytes is not None and size > policy.max_bytes
        if not (too_old or too_much):
            break
        _remove(transaction, owner, sha256)
        removed += 1
        if _is_gone(transaction, sha256):
            gone.append(sha256)
            size -= nbytes
    return removed, gone


def _touch(transaction: Transaction, owner: str, sha256: str, now_us: int) -> None:
    transaction.execute("UPDATE uploads SET used_us = ? WHERE owner = ? AND sha256 = ?", (now_us, owner, sha256))


def _remove(transaction: Transaction, owner: str, sha256: str) -> None:
    transaction.execute("DELETE FROM uploads WHERE owner = ? AND sha256 = ?", (owner, sha256))


def _is_gone(transaction: Transaction, sha256: str) -> bool:
    return transaction.row("SELECT 1 FROM uploads WHERE sha256 = ?", (sha256,)) is None


def _usage(transaction: Transaction, owner: str) -> Usage:
    row = transaction.row("SELECT count(*), coalesce(sum(size), 0) FROM uploads WHERE owner = ?", (owner,))
    return Usage(0, 0) if row is None else Usage(*row)
