"""How a job lies in its tables: a row to a Job and back. Which state follows which is not known here."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import TypeAdapter

from .database import Transaction
from .states import JobState
from .values import Job, JobDraft, JobError, Outcome, Progress

SELECT_JOB = "SELECT * FROM jobs JOIN bodies ON bodies.job = jobs.number"

_OUTCOME = TypeAdapter(Outcome)
_ERROR = TypeAdapter(JobError)
_PROGRESS = TypeAdapter(Progress)

_AS_THEY_ARE = (
    "id", "number", "document", "workflow", "owner", "priority", "deadline_us", "idempotency_key", "body_sha256",
    "max_attempts", "webhook", "attempt", "spent", "losses", "created_us", "started_us", "ended_us", "not_before_us", "worker",
)  # fmt: skip


def job_of(row: sqlite3.Row) -> Job:
    """Returns the job that a row of `SELECT_JOB` holds."""
    return Job(
        params=json.loads(row["params"]),
        outputs=tuple(json.loads(row["outputs"])),
        extra=json.loads(row["extra"]),
        state=JobState(row["state"]),
        cancel_requested=row["stop"] != "",
        outcome=None if row["outcome"] is None else _OUTCOME.validate_json(row["outcome"]),
        error=None if row["error"] is None else _ERROR.validate_json(row["error"]),
        progress=None if row["progress"] is None else _PROGRESS.validate_json(row["progress"]),
        **{name: row[name] for name in _AS_THEY_ARE},
    )


def find_job(transaction: Transaction, id: str) -> Job | None:
    """Returns the job of an id, None if there is none."""
    row = transaction.row(f"{SELECT_JOB} WHERE jobs.id = ?", (id,))
    return None if row is None else job_of(row)


def select_jobs(transaction: Transaction, condition: str, parameters: Sequence[Any]) -> Iterator[Job]:
    """Yields the jobs that meet a condition, the newest first, each read when it is asked for."""
    rows = transaction.execute(f"{SELECT_JOB} WHERE {condition} ORDER BY jobs.number DESC", parameters)
    return map(job_of, rows)


def insert_job(transaction: Transaction, draft: JobDraft, id: str, now_us: int) -> int:
    """Writes a new job, queued; returns its number."""
    number = transaction.execute(
        """INSERT INTO jobs (id, owner, workflow, priority, deadline_us, idempotency_key, body_sha256, max_attempts, webhook,
            state, created_us, not_before_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (
            id, draft.owner, draft.workflow, draft.priority, draft.deadline_us, draft.idempotency_key, draft.body_sha256,
            draft.max_attempts, draft.webhook, JobState.QUEUED, now_us, now_us,
        ),
    ).lastrowid  # fmt: skip
    assert number is not None
    transaction.execute(
        "INSERT INTO bodies (job, document, params, outputs, extra) VALUES (?, ?, ?, ?, ?)",
        (number, draft.document, to_json(draft.params), to_json(draft.outputs), to_json(draft.extra)),
    )
    if draft.uploads:
        named = [(number, sha256) for sha256 in sorted(draft.uploads)]
        transaction.execute_all("INSERT INTO job_uploads (job, sha256) VALUES (?, ?)", named)
    return number


def is_storable(text: str) -> bool:
    """Returns whether a text can be asked for at all: half a character (a lone surrogate) is in no row."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def to_json(value: Any) -> str:
    """Returns a value as JSON text. A number that JSON does not have (NaN, infinity) is written as null."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))


def outcome_to_json(outcome: Outcome) -> str:
    """Returns what `job_of` reads again as the outcome."""
    return to_json(_OUTCOME.dump_python(outcome))


def error_to_json(error: JobError) -> str:
    """Returns what `job_of` reads again as the error."""
    return to_json(_ERROR.dump_python(error))


def progress_to_json(progress: Progress) -> str:
    """Returns what `job_of` reads again as the progress."""
    return to_json(_PROGRESS.dump_python(progress))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
