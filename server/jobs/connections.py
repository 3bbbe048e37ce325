"""Connections to the store's SQLite file: durable, with a write-ahead log."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path

from ..durable import sync_folder
from ..errors import StoreUnusable
from .migrations import migrate, schema_of

_log = logging.getLogger(__name__)

_LOG_PAGES = 8000  # the log's length at which the writer itself makes the copy, should the other way not keep up
_BUSY_SECONDS = 5.0  # another process may write tokens beside the server
_PRAGMAS = ("synchronous = FULL", "foreign_keys = ON", "temp_store = MEMORY", f"wal_autocheckpoint = {_LOG_PAGES}")


def open_writer(path: Path) -> sqlite3.Connection:
    """Opens the file that is to be written, its schema up to date. Raises StoreUnusable, SchemaTooNew.

    What is not ours is found out before anything is written to it.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_BUSY_SECONDS)) as look:
            schema_of(look, path)
        connection = connect(path)
        try:
            migrate(connection, path)
            sync_folder(path.parent)
        except BaseException:
            connection.close()
            raise
    except sqlite3.OperationalError as error:
        raise StoreUnusable(path, str(error), "see that its folder can be written and has space") from error
    except sqlite3.DatabaseError as error:
        raise StoreUnusable(path, str(error), "put a backup in its place, or move it away") from error
    return connection


def connect(path: Path) -> sqlite3.Connection:
    """Opens a connection whose commits are durable. Threads hand it on but never share it at one time."""
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            cure = "choose a data folder on a local disk"
            raise StoreUnusable(path, "its file system allows no write-ahead log", cure)
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    connection.row_factory = sqlite3.Row
    return connection


def checkpoint(path: Path) -> None:
    """Copies the log into the file as far as nobody reads it, so that the writer can begin it anew. It blocks no one."""
    try:
        with contextlib.closing(connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    except sqlite3.Error as error:
        _log.warning("the log of %s was not copied (%s); it is tried again", path, error)
