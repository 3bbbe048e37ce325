"""Whose turn it is: of the jobs that are due the highest priority, then the owner served longest ago, then the oldest.

A turn is a number; each owner has that of when it was last served.
"""

from __future__ import annotations

from .database import Transaction

OWNERS_THAT_WAIT = """SELECT owner, min(number) AS number FROM jobs
    WHERE state IN ('queued', 'waiting_retry') AND priority = :priority AND not_before_us <= :now
    AND (deadline_us IS NULL OR deadline_us > :now) GROUP BY owner"""
HIGHEST_DUE = """SELECT priority FROM jobs
    WHERE state IN ('queued', 'waiting_retry') AND not_before_us <= :now
    AND (deadline_us IS NULL OR deadline_us > :now) ORDER BY priority DESC LIMIT 1"""


def next_in_turn(transaction: Transaction, now_us: int) -> int | None:
    """Returns the number of the job that is to run next, None if none is due."""
    priority = transaction.value(HIGHEST_DUE, {"now": now_us})
    if priority is None:
        return None
    number: int | None = transaction.value(
        f"""SELECT waiting.number FROM ({OWNERS_THAT_WAIT}) AS waiting LEFT JOIN turns ON turns.owner = waiting.owner
        ORDER BY coalesce(turns.turn, 0), waiting.number LIMIT 1""",
        {"now": now_us, "priority": priority},
    )
    return number


def take_turn(transaction: Transaction, owner: str) -> None:
    """Notes that an owner is served now."""
    transaction.execute(
        """INSERT INTO turns SELECT ?, coalesce(max(turn), 0) + 1 FROM turns WHERE true
        ON CONFLICT (owner) DO UPDATE SET turn = excluded.turn""",
        (owner,),
    )
