"""Workflows and tokens: each is kept, found, and let go."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from latentgraph.server.errors import UnknownWorkflow
from latentgraph.server.jobs.database import Database
from latentgraph.server.jobs.records import StoredToken, Tokens
from latentgraph.server.jobs.store import JobStore

from .queue_fakes import HandClock

TOKEN = StoredToken(
    "ann",
    "Ann's laptop",
    "ab" * 32,
    frozenset({"submit", "read"}),
    5,
    max_waiting=3,
    max_upload_bytes=100,
    requests_per_minute=60,
)


async def test_a_workflow_is_kept_under_its_name_until_it_is_deleted(store: JobStore, clock: HandClock) -> None:
    stored, created = await store.workflows.put("inpaint", "nodes: {}", "application/yaml")
    assert created
    assert stored.sha256 == hashlib.sha256(b"nodes: {}").hexdigest()
    assert await store.workflows.get("inpaint") == stored
    clock.pass_seconds(1)
    changed, created = await store.workflows.put("inpaint", "nodes: {a: {}}", "application/yaml")
    assert not created
    assert changed.updated_us == clock()
    assert await store.workflows.get("inpaint") == changed
    await store.workflows.delete("inpaint")
    with pytest.raises(UnknownWorkflow, match="there is no stored workflow 'inpaint'"):
        await store.workflows.get("inpaint")
    with pytest.raises(UnknownWorkflow):
        await store.workflows.delete("inpaint")


async def test_workflows_are_listed_by_name_in_pages(store: JobStore) -> None:
    for name in ("c", "a", "b"):
        await store.workflows.put(name, "{}", "application/json")
    assert [one.name for one in await store.workflows.list()] == ["a", "b", "c"]
    assert [one.name for one in await store.workflows.list(after="a", limit=1)] == ["b"]


async def test_a_name_that_is_no_text_is_an_unknown_workflow(store: JobStore) -> None:
    with pytest.raises(UnknownWorkflow):
        await store.workflows.get("\ud800")
    with pytest.raises(UnknownWorkflow):
        await store.workflows.delete("\ud800")


async def test_a_token_is_found_by_its_digest_and_stays_when_it_is_revoked(store: JobStore, clock: HandClock) -> None:
    await store.tokens.put(TOKEN)
    assert await store.tokens.find(TOKEN.sha256) == TOKEN
    assert await store.tokens.find("00" * 32) is None
    assert await store.tokens.revoke("ann")
    revoked_at = clock()
    clock.pass_seconds(1)
    assert await store.tokens.revoke("ann")
    assert not await store.tokens.revoke("ben")
    assert await store.tokens.find(TOKEN.sha256) == replace(TOKEN, revoked_us=revoked_at)


async def test_tokens_are_listed_the_oldest_first(store: JobStore) -> None:
    older = StoredToken("zoe", "", "00" * 32, frozenset(), 1)
    await store.tokens.put(TOKEN)
    await store.tokens.put(older)
    assert await store.tokens.list() == (older, TOKEN)


async def test_a_token_that_is_made_beside_a_running_store_is_found_by_it(
    store: JobStore, tmp_path: Path, clock: HandClock
) -> None:
    beside = await Database.open(tmp_path / "jobs.sqlite3")
    await Tokens(beside, clock).put(TOKEN)
    await beside.close()
    assert await store.tokens.find(TOKEN.sha256) == TOKEN
