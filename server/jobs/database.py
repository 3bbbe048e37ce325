"""Database: one SQLite file, one thread that writes it, a few that read it.

It knows no job. The writer takes all operations that wait, runs each in a savepoint of one transaction, and commits once: so
hundreds of writes share one sync of the disk, and none of them returns before it. An operation that raises undoes its own
savepoint; a commit that fails undoes all of its batch, and every caller is told. What an operation wants done after the
commit happens on the event loop, in the order of the commits, before its caller goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from ..errors import StoreClosed, StoreUnavailable
from .connections import checkpoint, connect, open_writer

_log = logging.getLogger(__name__)

T = TypeVar("T")

Parameters = Sequence[Any] | Mapping[str, Any]

Hook = Callable[[sqlite3.Connection, str], None]
"""Sees each statement of the writer before it runs; what it raises, the statement raises. For tests that break a disk."""

_BATCH = 256  # operations that share a commit at most
_READERS = 2
_CHECKPOINT_EVERY = 1000  # operations between two copies of the log into the file, which are made beside the writer


class Transaction:
    """What an operation sees of the database while it runs."""

    def __init__(self, connection: sqlite3.Connection, hook: Hook | None = None) -> None:
        self._connection = connection
        self._hook = hook
        self.callbacks: list[Callable[[], None]] = []

    def execute(self, sql: str, parameters: Parameters = ()) -> sqlite3.Cursor:
        """Runs a statement."""
        if self._hook is not None:
            self._hook(self._connection, sql)
        return self._connection.execute(sql, parameters)

    def execute_all(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Runs a statement for each row of values."""
        if self._hook is not None:
            self._hook(self._connection, sql)
        self._connection.executemany(sql, rows)

    def row(self, sql: str, parameters: Parameters = ()) -> sqlite3.Row | None:
        """Returns the first row that a statement gives."""
        row: sqlite3.Row | None = self.execute(sql, parameters).fetchone()
        return row

    def value(self, sql: str, parameters: Parameters = ()) -> Any:
        """Returns the first value of the first row, None if there is no row."""
        row = self.row(sql, parameters)
        return None if row is None else row[0]

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Has something done on the event loop once, and only if, this operation is committed."""
        self.callbacks.append(callback)


@dataclass(frozen=True, slots=True)
class _Operation(Generic[T]):
    function: Callable[[Transaction], T]
    future: asyncio.Future[T]


class Database:
    """An open file. It belongs to the event loop that opened it."""

    def __init__(self, path: Path, writer: sqlite3.Connection, hook: Hook | None) -> None:
        self.path = path
        self._hook = hook
        self._loop = asyncio.get_running_loop()
        self._writer: sqlite3.Connection | None = writer
        self._waiting: SimpleQueue[_Operation[Any] | None] = SimpleQueue()
        self._since_checkpoint = 0
        self._closing = False
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="store-reader")
        self._own = threading.local()  # each reader's connection
        self._opened: list[sqlite3.Connection] = []
        threading.Thread(target=self._write_until_closed, name="store-writer", daemon=True).start()

    @classmethod
    async def open(cls, path: Path, *, hook: Hook | None = None) -> Database:
        """Opens or makes the file and brings its schema up to date. Raises StoreUnusable, SchemaTooNew."""
        return cls(path, await asyncio.to_thread(open_writer, path), hook)

    def write_soon(self, function: Callable[[Transaction], T]) -> asyncio.Future[T]:
        """Has an operation run by the writer; the future is done when it is durable, or has raised and changed nothing.

        Raises StoreClosed. The operation may be run by the time that the future is cancelled.
        """
        if self._closing:
            raise StoreClosed
        operation = _Operation(function, self._loop.create_future())
        self._waiting.put(operation)
        return operation.future

    async def write(self, function: Callable[[Transaction], T]) -> T:
        """Runs an operation that writes; see `write_soon`. Raises StoreUnavailable if the disk does not take it."""
        return await self.write_soon(function)

    async def read(self, function: Callable[[Transaction], T]) -> T:
        """Runs an operation that reads, on one state of the database. Raises StoreUnavailable, StoreClosed."""
        if self._closing:
            raise StoreClosed
        return await self._loop.run_in_executor(self._readers, self._read, function)

    async def checkpoint(self) -> None:
        """Copies the log into the file, beside the writer; if that does not write meanwhile, it begins the log anew then."""
        if self._closing:
            raise StoreClosed
        await self._loop.run_in_executor(self._readers, checkpoint, self.path)

    async def close(self) -> None:
        """Finishes all that was asked for and closes the file. It may be repeated."""
        if not self._closing:
            self._closing = True
            self._waiting.put(None)
        await asyncio.shield(self._stopped)

    def _read(self, function: Callable[[Transaction], T]) -> T:
        try:
            connection = self._reader()
            connection.execute("BEGIN")
            try:
                return function(Transaction(connection))
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise _translated(error) from error

    def _reader(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = connect(self.path)
            connection.execute("PRAGMA query_only = 1")
            self._own.connection = connection
            self._opened.append(connection)
        return connection

    def _write_until_closed(self) -> None:
        while batch := self._take():
            settle = self._commit(batch)
            self._on_loop(settle)
            self._since_checkpoint += len(batch)
            if self._since_checkpoint >= _CHECKPOINT_EVERY:
                self._since_checkpoint = 0
                with contextlib.suppress(RuntimeError):  # the interpreter is ending
                    self._readers.submit(checkpoint, self.path)
        self._readers.shutdown()
        for connection in [*self._opened, self._writer]:
            with contextlib.suppress(sqlite3.Error):
                if connection is not None:
                    connection.close()
        self._on_loop(partial(self._stopped.set_result, None))

    def _take(self) -> list[_Operation[Any]]:
        """Waits for an operation and returns it with those that wait behind it; nothing, once closed and done."""
        batch: list[_Operation[Any]] = []
        operation = self._waiting.get()
        with contextlib.suppress(Empty):
            while operation is not None:
                batch.append(operation)
                if len(batch) == _BATCH:
                    return batch
                operation = self._waiting.get_nowait()
            if batch:
                self._waiting.put(None)  # the end comes after this batch
        return batch

    def _commit(self, batch: Sequence[_Operation[Any]]) -> Callable[[], None]:
        """Runs operations in one transaction; returns what tells their callers, to be called on the event loop."""
        callbacks: list[Callable[[], None]] = []
        try:
            connection = self._connected()
            transaction = Transaction(connection, self._hook)
            transaction.execute("BEGIN IMMEDIATE")
            verdicts = [_attempt(operation, connection, self._hook, callbacks) for operation in batch]
            transaction.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers are told and the writer goes on
            self._roll_back()
            _log.error("a commit of %d operations failed: %s", len(batch), error)
            failures = [_Verdict(error=StoreUnavailable(str(error))) for _ in batch]
            return lambda: _tell_all(batch, failures)

        def settle() -> None:
            for callback in callbacks:
                _call(callback)
            _tell_all(batch, verdicts)

        return settle

    def _connected(self) -> sqlite3.Connection:
        if self._writer is None:
            self._writer = connect(self.path)
        return self._writer

    def _roll_back(self) -> None:
        """Ends a broken transaction; a connection that can't even do that is opened anew for the next one."""
        connection = self._writer
        if connection is None or not connection.in_transaction:
            return
        try:
            Transaction(connection, self._hook).execute("ROLLBACK")
        except sqlite3.Error:
            self._writer = None
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _on_loop(self, callback: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed; nobody waits any more
            self._loop.call_soon_threadsafe(callback)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What became of an operation."""

    result: Any = None
    error: Exception | None = None


def _attempt(
    operation: _Operation[Any], connection: sqlite3.Connection, hook: Hook | None, callbacks: list[Callable[[], None]]
) -> _Verdict:
    """Runs an operation in a savepoint. Raises if the whole transaction is lost."""
    transaction = Transaction(connection, hook)
    transaction.execute("SAVEPOINT operation")
    try:
        verdict = _Verdict(operation.function(transaction))
    except Exception as error:
        if not connection.in_transaction:
            raise  # SQLite itself gave up the transaction, as it does on a full disk
        transaction.execute("ROLLBACK TO operation")
        transaction.callbacks.clear()
        verdict = _Verdict(error=_translated(error))
    transaction.execute("RELEASE operation")
    callbacks.extend(transaction.callbacks)
    return verdict


def _tell_all(batch: Sequence[_Operation[Any]], verdicts: Sequence[_Verdict]) -> None:
    for operation, verdict in zip(batch, verdicts, strict=True):
        if operation.future.done():
            continue  # the caller was cancelled
        if verdict.error is None:
            operation.future.set_result(verdict.result)
        else:
            operation.future.set_exception(verdict.error)


def _call(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:  # noqa: BLE001 - what was committed stays so, and its caller is told
        _log.exception("something that was to follow a commit failed")


def _translated(error: Exception) -> Exception:
    """Returns the error as callers know it: what a disk can cause is StoreUnavailable, the rest is a fault of ours."""
    if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:
        return StoreUnavailable(str(error))
    return error
