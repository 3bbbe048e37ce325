"""The schema of the job store, by number. To change it, add an entry at the end; one that was released never changes.

Each step runs in one transaction with the number it leads to, so a crash in between leaves the schema as it was. A schema
from a newer version is refused and left alone.

What is written once and may be long (the document) lies apart from what every change of state writes again. How many jobs an
owner has in each state is counted by triggers, so that a bounded queue asks one row and not the whole queue.
"""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

from ..errors import SchemaTooNew, StoreUnusable

APPLICATION_ID = 0x6C676A73  # "lgjs", so that another program's file is told apart

_FIRST = (
    """CREATE TABLE jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        workflow TEXT NOT NULL,
        priority INTEGER NOT NULL,
        deadline_us INTEGER,
        idempotency_key TEXT,
        body_sha256 TEXT NOT NULL,
        max_attempts INTEGER NOT NULL,
        webhook TEXT,
        state TEXT NOT NULL,
        attempt INTEGER NOT NULL DEFAULT 0,
        spent INTEGER NOT NULL DEFAULT 0,
        losses INTEGER NOT NULL DEFAULT 0,
        created_us INTEGER NOT NULL,
        started_us INTEGER,
        ended_us INTEGER,
        not_before_us INTEGER NOT NULL,
        stop TEXT NOT NULL DEFAULT '',
        worker TEXT NOT NULL DEFAULT '',
        output_bytes INTEGER NOT NULL DEFAULT 0,
        progress TEXT,
        error TEXT,
        outcome TEXT
    )""",
    "CREATE UNIQUE INDEX jobs_by_key ON jobs (owner, idempotency_key) WHERE idempotency_key IS NOT NULL",
    """CREATE INDEX jobs_waiting ON jobs (priority DESC, owner, number, not_before_us, deadline_us, state)
        WHERE state IN ('queued', 'waiting_retry')""",
    "CREATE INDEX jobs_running ON jobs (number) WHERE state = 'running'",
    "CREATE INDEX jobs_with_deadline ON jobs (deadline_us) WHERE deadline_us IS NOT NULL AND ended_us IS NULL",
    "CREATE INDEX jobs_ended ON jobs (ended_us) WHERE ended_us IS NOT NULL",
    "CREATE INDEX jobs_by_owner ON jobs (owner, number)",
    """CREATE TABLE bodies (
        job INTEGER PRIMARY KEY REFERENCES jobs (number) ON DELETE CASCADE,
        document TEXT NOT NULL,
        params TEXT NOT NULL,
        outputs TEXT NOT NULL,
        extra TEXT NOT NULL
    )""",
    """CREATE TABLE events (
        job INTEGER NOT NULL REFERENCES jobs (number) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        kind TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        at_us INTEGER NOT NULL,
        data TEXT NOT NULL,
        PRIMARY KEY (job, number)
    ) WITHOUT ROWID""",
    """CREATE TABLE tallies (
        owner TEXT NOT NULL,
        state TEXT NOT NULL,
        jobs INTEGER NOT NULL,
        PRIMARY KEY (owner, state)
    ) WITHOUT ROWID""",
    """CREATE TRIGGER job_added AFTER INSERT ON jobs BEGIN
        INSERT INTO tallies VALUES (NEW.owner, NEW.state, 1) ON CONFLICT (owner, state) DO UPDATE SET jobs = jobs + 1;
    END""",
    """CREATE TRIGGER job_moved AFTER UPDATE OF state ON jobs WHEN OLD.state <> NEW.state BEGIN
        UPDATE tallies SET jobs = jobs - 1 WHERE owner = OLD.owner AND state = OLD.state;
        INSERT INTO tallies VALUES (NEW.owner, NEW.state, 1) ON CONFLICT (owner, state) DO UPDATE SET jobs = jobs + 1;
    END""",
    """CREATE TRIGGER job_removed AFTER DELETE ON jobs BEGIN
        UPDATE tallies SET jobs = jobs - 1 WHERE owner = OLD.owner AND state = OLD.state;
        DELETE FROM tallies WHERE owner = OLD.owner AND jobs = 0;
    END""",
    "CREATE TABLE turns (owner TEXT PRIMARY KEY, turn INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE workflows (
        name TEXT PRIMARY KEY,
        document TEXT NOT NULL,
        media_type TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        updated_us INTEGER NOT NULL
    )""",
    """CREATE TABLE tokens (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        sha256 TEXT NOT NULL UNIQUE,
        scopes TEXT NOT NULL,
        created_us INTEGER NOT NULL,
        revoked_us INTEGER,
        max_waiting INTEGER,
        max_upload_bytes INTEGER,
        requests_per_minute INTEGER
    )""",
    """CREATE TABLE uploads (
        owner TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        size INTEGER NOT NULL,
        media_type TEXT NOT NULL,
        created_us INTEGER NOT NULL,
        PRIMARY KEY (owner, sha256)
    ) WITHOUT ROWID""",
    "CREATE INDEX uploads_by_content ON uploads (sha256)",
    """CREATE TABLE deliveries (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        job TEXT NOT NULL,
        url TEXT NOT NULL,
        body TEXT NOT NULL,
        tries INTEGER NOT NULL DEFAULT 0,
        created_us INTEGER NOT NULL,
        due_us INTEGER NOT NULL
    )""",
    "CREATE INDEX deliveries_due ON deliveries (due_us)",
)

_USES_OF_UPLOADS_AND_OWNERS_OF_CALLS = (
    "ALTER TABLE uploads ADD COLUMN used_us INTEGER NOT NULL DEFAULT 0",
    "UPDATE uploads SET used_us = created_us",
    """CREATE TABLE job_uploads (
        job INTEGER NOT NULL REFERENCES jobs (number) ON DELETE CASCADE,
        sha256 TEXT NOT NULL,
        PRIMARY KEY (job, sha256)
    ) WITHOUT ROWID""",
    "CREATE INDEX job_uploads_by_content ON job_uploads (sha256)",
    """CREATE TABLE workflow_uploads (
        workflow TEXT NOT NULL REFERENCES workflows (name) ON DELETE CASCADE,
        sha256 TEXT NOT NULL,
        PRIMARY KEY (workflow, sha256)
    ) WITHOUT ROWID""",
    "CREATE INDEX workflow_uploads_by_content ON workflow_uploads (sha256)",
    """INSERT INTO job_uploads SELECT bodies.job, named.value
        FROM bodies, json_each(digests_in(bodies.document || bodies.params)) AS named""",
    """INSERT INTO workflow_uploads SELECT workflows.name, named.value
        FROM workflows, json_each(digests_in(workflows.document)) AS named""",
    "ALTER TABLE deliveries ADD COLUMN owner TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE deliveries ADD COLUMN host TEXT NOT NULL DEFAULT ''",
    "UPDATE deliveries SET owner = coalesce((SELECT owner FROM jobs WHERE jobs.id = deliveries.job), '')",
    "DROP INDEX deliveries_due",
    "CREATE INDEX deliveries_due ON deliveries (owner, due_us)",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST, _USES_OF_UPLOADS_AND_OWNERS_OF_CALLS)
"""The statements that lead from schema n to schema n + 1, at place n."""


def migrate(
    connection: sqlite3.Connection, path: Path, migrations: tuple[tuple[str, ...], ...] = MIGRATIONS
) -> tuple[int, int]:
    """Brings a store up to date; returns the schema it had and the one it has.

    Raises SchemaTooNew, and StoreUnusable if the file belongs to another program.
    """
    connection.create_function("digests_in", 1, _digests_in, deterministic=True)
    found = schema_of(connection, path)
    if found > len(migrations):
        raise SchemaTooNew(path, found, len(migrations))
    for number in range(found, len(migrations)):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if schema_of(connection, path) == number:  # not done by another process in between
                for statement in migrations[number]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {number + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    return found, len(migrations)


def schema_of(connection: sqlite3.Connection, path: Path) -> int:
    """Returns the number of a file's schema, 0 if it is empty. Writes nothing. Raises StoreUnusable for another program's."""
    (program,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if program != APPLICATION_ID and (program or tables):
        raise StoreUnusable(path, "it is another program's file", "move it away, or choose another data folder")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _digests_in(text: str) -> str:
    """Returns the digests of the uploads that a text names, each once, as a JSON list."""
    return json.dumps(sorted(set(re.findall("sha256:([0-9a-f]{64})", text))))
