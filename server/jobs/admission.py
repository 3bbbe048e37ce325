"""Who gets into the queue: idempotency keys, the bound of the queue, and the quota of each owner.

It runs inside the writer's transaction, so what it counts is what there is.
"""

from __future__ import annotations

from ..clock import SECOND_US
from ..errors import IdempotencyConflict, JobIdTaken, QueueFull, QuotaExceeded
from .database import Transaction
from .rows import find_job
from .states import WAITING
from .values import Job, JobDraft, QueueLimits

_LATELY = 20  # ended jobs that tell how soon a place will be free
_LATELY_US = 600 * SECOND_US
_UNKNOWN_SECONDS, _LONGEST_SECONDS = 10, 60  # to wait if none has ended lately, and at most

_COUNT_WAITING = "SELECT coalesce(sum(jobs), 0) FROM tallies WHERE state IN ({})".format(", ".join("?" * len(WAITING)))


def find_first(transaction: Transaction, draft: JobDraft) -> Job | None:
    """Returns the job that has the draft's idempotency key. Raises IdempotencyConflict if its body was another."""
    if draft.idempotency_key is None:
        return None
    owner_and_key = (draft.owner, draft.idempotency_key)
    id = transaction.value("SELECT id FROM jobs WHERE owner = ? AND idempotency_key = ?", owner_and_key)
    job = None if id is None else find_job(transaction, id)
    if job is not None and job.body_sha256 != draft.body_sha256:
        raise IdempotencyConflict(draft.idempotency_key, job.id)
    return job


def admit(transaction: Transaction, draft: JobDraft, limits: QueueLimits, now_us: int) -> None:
    """Returns if a new job may wait. Raises JobIdTaken, QueueFull, QuotaExceeded."""
    if draft.id is not None and transaction.row("SELECT 1 FROM jobs WHERE id = ?", (draft.id,)):
        raise JobIdTaken(draft.id)
    states = sorted(WAITING)
    waiting = transaction.value(_COUNT_WAITING, states)
    if waiting >= limits.max_waiting:
        raise QueueFull(waiting, _retry_after_seconds(transaction, now_us))
    quota = transaction.value("SELECT max_waiting FROM tokens WHERE id = ?", (draft.owner,))
    quota = limits.max_waiting_per_owner if quota is None else quota
    if quota is not None and transaction.value(f"{_COUNT_WAITING} AND owner = ?", [*states, draft.owner]) >= quota:
        raise QuotaExceeded("waiting jobs", quota, _retry_after_seconds(transaction, now_us))


def _retry_after_seconds(transaction: Transaction, now_us: int) -> int:
    """Returns in how many seconds a job is likely to have ended, by those that ended lately."""
    row = transaction.row(
        "SELECT count(*), min(ended_us) FROM (SELECT ended_us FROM jobs WHERE ended_us > ? ORDER BY ended_us DESC LIMIT ?)",
        (now_us - _LATELY_US, _LATELY),
    )
    if row is None or row[0] == 0:
        return _UNKNOWN_SECONDS
    count, first_us = row
    return int(min(max(-(-(now_us - first_us) // (count * SECOND_US)), 1), _LONGEST_SECONDS))
