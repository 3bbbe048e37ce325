"""Uploads: whose they are, what they may take, and which of them go once nothing needs them."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from latentgraph.server.api.settings import Settings
from latentgraph.server.errors import QuotaExceeded
from latentgraph.server.files.sweeping import remove_strays, sweep_uploads
from latentgraph.server.files.uploads import FileStore, upload_path
from latentgraph.server.jobs.migrations import MIGRATIONS, migrate
from latentgraph.server.jobs.retention import RetentionPolicy, sweep
from latentgraph.server.jobs.store import JobStore
from latentgraph.server.jobs.uploads import UploadPolicy, Usage

from .queue_fakes import HandClock, check_clean, submitted

FILE, OTHER, THIRD = "cd" * 32, "ef" * 32, "ab" * 32
POLICY = UploadPolicy(max_age_seconds=100_000, max_bytes=None, least_age_seconds=7200)


async def test_an_upload_belongs_to_whoever_sent_it(store: JobStore) -> None:
    sent = await store.uploads.put("ann", FILE, 60, "image/png")
    assert await store.uploads.put("ann", FILE, 60, "image/png") == sent
    assert await store.uploads.get("ann", FILE) == sent
    assert await store.uploads.get("ben", FILE) is None
    assert await store.uploads.get(None, FILE) == sent
    assert await store.uploads.usage("ann") == Usage(1, 60)
    assert await store.uploads.usage("ben") == Usage(0, 0)


async def test_uploads_past_the_quota_are_refused_even_at_once(store: JobStore) -> None:
    puts = [store.uploads.put("ann", digest * 32, 60, "image/png", max_bytes=100) for digest in ("aa", "bb")]
    answers = await asyncio.gather(*puts, return_exceptions=True)
    assert sum(isinstance(answer, QuotaExceeded) for answer in answers) == 1
    assert await store.uploads.usage("ann") == Usage(1, 60)


async def test_the_bytes_of_an_upload_can_go_when_nobody_has_it(store: JobStore) -> None:
    for owner in ("ann", "ben"):
        await store.uploads.put(owner, FILE, 60, "image/png")
    assert not await store.uploads.remove("ann", FILE)
    assert await store.uploads.remove("ben", FILE)
    assert await store.uploads.remove("ben", OTHER)


@pytest.fixture
def files(store: JobStore) -> FileStore:
    return FileStore(store.folder / "files", Settings())


async def kept(store: JobStore, files: FileStore, owner: str, sha256: str) -> None:
    """Notes an upload of 60 bytes, and puts bytes in its place."""
    await store.uploads.put(owner, sha256, 60, "image/png")
    path = upload_path(files.folder, sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"." * 60)


async def test_an_upload_that_nothing_needs_goes_past_its_age_with_its_bytes(
    store: JobStore, files: FileStore, clock: HandClock, tmp_path: Path
) -> None:
    await kept(store, files, "ann", FILE)
    await kept(store, files, "ben", FILE)
    clock.pass_seconds(50_000)
    await kept(store, files, "ben", FILE)  # once more
    clock.pass_seconds(50_000)
    assert await sweep_uploads(store.uploads, files, POLICY) == 1
    assert await store.uploads.get("ann", FILE) is None
    assert await files.has(FILE)
    clock.pass_seconds(50_000)
    assert await sweep_uploads(store.uploads, files, POLICY) == 1
    assert not await files.has(FILE)
    check_clean(tmp_path)


async def test_an_upload_that_is_asked_for_is_kept_for_another_while(
    store: JobStore, files: FileStore, clock: HandClock
) -> None:
    await kept(store, files, "ann", FILE)
    clock.pass_seconds(99_000)
    upload = await store.uploads.get("ann", FILE)
    assert upload is not None
    await store.uploads.touch(upload)
    clock.pass_seconds(99_000)
    assert await sweep_uploads(store.uploads, files, POLICY) == 0


async def test_what_a_job_or_a_stored_workflow_names_is_kept_as_long_as_these_are(
    store: JobStore, files: FileStore, clock: HandClock
) -> None:
    for sha256 in (FILE, OTHER):
        await kept(store, files, "ann", sha256)
    job = await submitted(store, owner="ann", uploads=frozenset({FILE}))
    await store.workflows.put("portrait", "{}", "application/json", [OTHER])
    await store.workflows.put("portrait", "{}", "application/json", [OTHER])
    clock.pass_seconds(10_000_000)
    assert await sweep_uploads(store.uploads, files, POLICY) == 0
    await store.cancel(job.id)
    assert await sweep_uploads(store.uploads, files, POLICY) == 0
    await sweep(store, RetentionPolicy(max_jobs=0))
    assert await sweep_uploads(store.uploads, files, POLICY) == 1
    await store.workflows.put("portrait", "{}", "application/json")
    assert await sweep_uploads(store.uploads, files, POLICY) == 1


async def test_of_too_many_bytes_the_longest_unused_go_but_none_that_has_just_come(
    store: JobStore, files: FileStore, clock: HandClock
) -> None:
    for sha256 in (FILE, OTHER):
        await kept(store, files, "ann", sha256)
        clock.pass_seconds(7200)
    await kept(store, files, "ann", THIRD)
    assert await sweep_uploads(store.uploads, files, replace(POLICY, max_bytes=120)) == 1
    assert [await files.has(sha256) for sha256 in (FILE, OTHER, THIRD)] == [False, True, True]
    assert await sweep_uploads(store.uploads, files, replace(POLICY, max_bytes=0)) == 1
    assert [await files.has(sha256) for sha256 in (FILE, OTHER, THIRD)] == [False, False, True]


async def test_what_a_stored_workflow_names_is_for_all_who_may_read_it(store: JobStore) -> None:
    sent = await store.uploads.put("ann", FILE, 60, "image/png")
    assert await store.uploads.get("ben", FILE) is None
    await store.workflows.put("portrait", "{}", "application/json", [FILE])
    assert await store.uploads.get("ben", FILE) == sent
    own = await store.uploads.put("ben", FILE, 60, "image/png")
    assert await store.uploads.get("ben", FILE) == own
    await store.workflows.delete("portrait")
    assert await store.uploads.get("cem", FILE) is None


async def test_files_without_a_note_go_when_a_server_starts(store: JobStore, files: FileStore) -> None:
    await kept(store, files, "ann", FILE)
    stray = upload_path(files.folder, OTHER)
    stray.parent.mkdir()
    stray.write_bytes(b".")
    (files.folder / "incoming").mkdir()
    (files.folder / "incoming" / "draft").write_bytes(b".")
    await remove_strays(store.uploads, files)
    assert [path.name for path in files.folder.rglob("*") if path.is_file()] == [FILE]


def test_what_an_older_store_holds_is_found_to_be_in_use(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "jobs.sqlite3", isolation_level=None)
    migrate(connection, tmp_path / "jobs.sqlite3", MIGRATIONS[:1])
    connection.execute(
        """INSERT INTO jobs (id, owner, workflow, priority, body_sha256, max_attempts, state, created_us, not_before_us)
        VALUES ('j', 'ann', '', 0, '', 3, 'queued', 1, 1)"""
    )
    body = (1, f'{{"file": "sha256:{FILE}"}}', f'{{"a": "sha256:{OTHER}", "b": "sha256:{OTHER}"}}', "[]", "{}")
    connection.execute("INSERT INTO bodies VALUES (?, ?, ?, ?, ?)", body)
    connection.execute("INSERT INTO workflows VALUES ('w', ?, 'application/yaml', '', 1)", (f"file: sha256:{THIRD}",))
    connection.execute("INSERT INTO uploads VALUES ('ann', ?, 60, 'image/png', 7)", (FILE,))
    connection.execute("INSERT INTO deliveries (job, url, body, created_us, due_us) VALUES ('j', 'u', '', 1, 1)")
    migrate(connection, tmp_path / "jobs.sqlite3")
    assert connection.execute("SELECT * FROM job_uploads ORDER BY sha256").fetchall() == [(1, FILE), (1, OTHER)]
    assert connection.execute("SELECT * FROM workflow_uploads").fetchall() == [("w", THIRD)]
    assert connection.execute("SELECT used_us FROM uploads").fetchall() == [(7,)]
    assert connection.execute("SELECT owner, host FROM deliveries").fetchall() == [("ann", "")]
    connection.close()
