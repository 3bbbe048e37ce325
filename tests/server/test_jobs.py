"""Drafts refuse what no store could keep, and ids sort by the time they were made."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from latentgraph.server.errors import InvalidDraft
from latentgraph.server.jobs.values import JobDraft, is_job_id, new_job_id

from .queue_fakes import OUTCOME, draft


def test_a_job_id_is_a_uuid_of_version_7_that_tells_its_time() -> None:
    id = new_job_id(1_700_000_000_123_456)
    assert is_job_id(id)
    as_uuid = uuid.UUID(id)
    assert (as_uuid.version, as_uuid.variant) == (7, uuid.RFC_4122)
    assert as_uuid.int >> 80 == 1_700_000_000_123


def test_ids_made_at_different_microseconds_sort_by_time() -> None:
    ids = [new_job_id(1_700_000_000_000_000 + step) for step in range(0, 3000, 7)]
    assert ids == sorted(ids)


def test_ids_made_at_one_moment_differ() -> None:
    assert len({new_job_id(1_700_000_000_000_000) for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "text", ["", "a" * 31, "A" * 32, "a" * 33, "a" * 32 + "\n", "../" + "a" * 29, "é" * 32, "٣" * 32]
)
def test_what_is_no_safe_file_name_is_no_job_id(text: str) -> None:
    assert not is_job_id(text)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"priority": 101}, "priority is a whole number from -100 to 100, and 101 is not"),
        ({"priority": float("nan")}, "priority is a whole number"),
        ({"priority": True}, "priority is a whole number"),
        ({"priority": "9"}, "priority is a whole number"),
        ({"max_attempts": 0}, "max_attempts is a whole number from 1 to 100"),
        ({"deadline_us": 2**63}, "deadline_us is a whole number"),
        ({"idempotency_key": ""}, "must not be empty"),
        ({"idempotency_key": "key"}, "needs the digest of the body"),
        ({"id": "7d6e4240-2f3e-4c1c-9a77-000000000000"}, "has 32 hexadecimal digits in lower case"),
        ({"document": '"\ud800"'}, "document holds half a character"),
        ({"owner": "\udfff"}, "owner holds half a character"),
    ],
)
def test_a_draft_that_no_store_could_keep_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidDraft, match=said):
        draft(**fields)


def test_a_draft_keeps_what_it_is_given() -> None:
    given = draft(priority=-100, max_attempts=1, deadline_us=0, idempotency_key="k", body_sha256="b", id="0" * 32)
    assert isinstance(given, JobDraft)
    assert (given.priority, given.id) == (-100, "0" * 32)


def test_an_outcome_knows_what_its_files_take() -> None:
    assert OUTCOME.nbytes == 10
