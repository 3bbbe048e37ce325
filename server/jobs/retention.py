"""What is thrown away: ended jobs past an age, a count or a size, with their events and files, and webhook calls that are owed
for too long.

The row goes first and the files after it; what a crash leaves between the two, `folders.tidy` finds. A job that has
not ended is never touched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ..clock import SECOND_US
from .database import Transaction
from .folders import remove_all
from .store import JobStore

_log = logging.getLogger(__name__)

_STEP = 50  # jobs removed by one operation of the writer, so that submits wait for no more


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """What is kept of ended jobs: for so long, so many of them, and so many bytes of their files. None is no bound.

    max_call_seconds, max_calls: how long, and how many, webhook calls are owed.
    """

    max_age_seconds: float | None = 30 * 86400.0
    max_jobs: int | None = 10_000
    max_output_bytes: int | None = 20 << 30
    max_call_seconds: float | None = 3 * 86400.0
    max_calls: int | None = 100_000


async def sweep(store: JobStore, policy: RetentionPolicy) -> Sequence[str]:
    """Removes what the policy does not keep, the jobs that ended first; returns their ids."""
    if given_up := await store.webhooks.give_up(policy.max_call_seconds, policy.max_calls):
        _log.warning("%d webhook calls are given up: they are owed for too long, or there are too many", given_up)
    removed: list[str] = []
    while True:
        ids = await store.database.write(partial(_remove_some, policy=policy, now_us=store.clock()))
        await asyncio.to_thread(remove_all, [store.outputs / id for id in ids])
        removed += ids
        if len(ids) < _STEP:
            return removed


def _remove_some(transaction: Transaction, *, policy: RetentionPolicy, now_us: int) -> list[str]:
    """Removes the next jobs that are not kept, `_STEP` at most; returns their ids."""
    count, size = transaction.execute(
        "SELECT count(*), coalesce(sum(output_bytes), 0) FROM jobs WHERE ended_us IS NOT NULL"
    ).fetchone()
    oldest = transaction.execute(
        "SELECT number, id, ended_us, output_bytes FROM jobs WHERE ended_us IS NOT NULL ORDER BY ended_us, number LIMIT ?",
        (_STEP,),
    ).fetchall()
    removed: list[str] = []
    for number, id, ended_us, nbytes in oldest:
        too_old = policy.max_age_seconds is not None and ended_us <= now_us - policy.max_age_seconds * SECOND_US
        too_many = policy.max_jobs is not None and count > policy.max_jobs
        too_large = policy.max_output_bytes is not None and size > policy.max_output_bytes
        if not (too_old or too_many or too_large):
            break
        transaction.execute("DELETE FROM jobs WHERE number = ?", (number,))
        removed.append(id)
        count, size = count - 1, size - nbytes
    return removed
