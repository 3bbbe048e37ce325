"""The schema by number: brought up to date in whole steps, and left alone if it is another's or newer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from latentgraph.server.errors import SchemaTooNew, StoreUnusable
from latentgraph.server.jobs.migrations import MIGRATIONS, migrate, schema_of

FIRST = ("CREATE TABLE one (a)", "INSERT INTO one VALUES (1)")
SECOND = ("ALTER TABLE one ADD COLUMN b DEFAULT 2", "CREATE TABLE two (c)")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite3"


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    yield connection
    connection.close()


def test_an_empty_file_gets_every_step(connection: sqlite3.Connection, path: Path) -> None:
    assert migrate(connection, path) == (0, len(MIGRATIONS))
    assert schema_of(connection, path) == len(MIGRATIONS)
    assert migrate(connection, path) == (len(MIGRATIONS), len(MIGRATIONS))


def test_an_older_store_gets_the_steps_that_it_lacks_and_keeps_its_rows(
    connection: sqlite3.Connection, path: Path
) -> None:
    migrate(connection, path, (FIRST,))
    assert migrate(connection, path, (FIRST, SECOND)) == (1, 2)
    assert connection.execute("SELECT * FROM one").fetchall() == [(1, 2)]


def test_a_step_that_fails_leaves_the_schema_as_it_was(connection: sqlite3.Connection, path: Path) -> None:
    migrate(connection, path, (FIRST,))
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, path, (FIRST, (*SECOND, "this is no SQL")))
    assert schema_of(connection, path) == 1
    assert connection.execute("SELECT * FROM one").fetchall() == [(1,)]
    assert migrate(connection, path, (FIRST, SECOND)) == (1, 2)


def test_a_newer_store_is_refused_with_what_to_do(connection: sqlite3.Connection, path: Path) -> None:
    migrate(connection, path, (FIRST, SECOND))
    with pytest.raises(
        SchemaTooNew, match="has schema 2, and this version knows up to 1; start the version that wrote it"
    ):
        migrate(connection, path, (FIRST,))


def test_another_programs_file_is_refused_and_left_alone(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("CREATE TABLE theirs (a)")
    with pytest.raises(StoreUnusable, match="it is another program's file; move it away"):
        migrate(connection, path)
    assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]
    connection.execute("DROP TABLE theirs")
    connection.execute("PRAGMA application_id = 7")
    with pytest.raises(StoreUnusable):
        migrate(connection, path)


def test_the_released_schema_has_not_changed(connection: sqlite3.Connection, path: Path) -> None:
    """What a released step makes is a promise: to change it, add a step, and pin that here."""
    migrate(connection, path)
    names = connection.execute("SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite%' ORDER BY name").fetchall()
    assert [name for (name,) in names] == [
        "bodies", "deliveries", "deliveries_due", "events", "job_added", "job_moved", "job_removed", "job_uploads",
        "job_uploads_by_content", "jobs",
        "jobs_by_key", "jobs_by_owner", "jobs_ended", "jobs_running", "jobs_waiting", "jobs_with_deadline", "settings",
        "tallies", "tokens", "turns", "uploads", "uploads_by_content",
        "workflow_uploads", "workflow_uploads_by_content", "workflows",
    ]  # fmt: skip
