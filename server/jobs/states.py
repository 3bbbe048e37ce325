"""The states of a job, and which follows which. Every change of a state is checked here and nowhere else.

A job waits (queued, or waiting_retry until its time comes), runs, and ends. Nothing leaves an end state. What changes a
state, and what is written down with it, is the store's affair.

    queued ----------> running ----------> succeeded | failed | cancelled | quarantined
       |                |  ^ |
       |                |  | +-- put back by a drain, at no cost --> queued
       |                v  |
       |             waiting_retry --> cancelled | failed (deadline)
       +--> cancelled | failed (deadline)
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from ..errors import IllegalTransition


class JobState(StrEnum):
    """Where a job stands. The values are what is stored and what the API shows."""

    QUEUED = "queued"  # waits for its first attempt, or was put back
    RUNNING = "running"  # a worker has it
    WAITING_RETRY = "waiting_retry"  # waits for its next attempt, from `not_before_us` on
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    QUARANTINED = "quarantined"  # it was running when two workers died


WAITING = frozenset((JobState.QUEUED, JobState.WAITING_RETRY))
ENDED = frozenset((JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.QUARANTINED))

ALLOWED: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset((JobState.RUNNING, JobState.CANCELLED, JobState.FAILED)),
    JobState.WAITING_RETRY: frozenset((JobState.RUNNING, JobState.CANCELLED, JobState.FAILED)),
    JobState.RUNNING: ENDED | WAITING,
    **dict.fromkeys(ENDED, frozenset[JobState]()),
}
"""The states that may follow a state."""


def check_transition(before: JobState, after: JobState) -> None:
    """Raises IllegalTransition unless a job may go from `before` to `after`."""
    if after not in ALLOWED[before]:
        raise IllegalTransition(before, after)
