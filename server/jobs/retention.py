"""What is thrown away: ended jobs past an age, a count or a size, with their events and files, folders of no job, and webhook
calls that are owed for too long.

The row goes first and the files after it; what a crash leaves between the two is found when the store opens. A job that has
not ended is never touched.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..clock import SECOND_US
from .database import Database, Transaction
from .values import is_job_id

if TYPE_CHECKING:
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
        await asyncio.to_thread(_remove_folders, [store.outputs / id for id in ids])
        removed += ids
        if len(ids) < _STEP:
            return removed


async def tidy(database: Database, *, attempts: Path, outputs: Path) -> None:
    """Empties the folder of attempts, none of which goes on, and removes outputs whose job is gone. For when a store opens."""
    left, published = await asyncio.to_thread(lambda: (_listed(attempts), _listed(outputs)))
    names = [path.name for path in published if is_job_id(path.name)]
    known = await database.read(partial(_known, ids=names))
    gone = [outputs / name for name in names if name not in known]
    await asyncio.to_thread(_remove_folders, [*left, *gone])


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


def _known(transaction: Transaction, *, ids: Sequence[str]) -> set[str]:
    return {id for id in ids if transaction.row("SELECT 1 FROM jobs WHERE id = ?", (id,))}


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def _remove_folders(paths: Sequence[Path]) -> None:
    for path in paths:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s cannot be removed (%s); it is tried again at the next start", path, error)
