"""The states of a job: the table of what may follow what is the rule, and nothing leaves an end."""

from __future__ import annotations

import itertools

import pytest

from latentgraph.server.errors import IllegalTransition
from latentgraph.server.jobs.states import ALLOWED, ENDED, WAITING, JobState, check_transition


def test_every_state_waits_runs_or_has_ended() -> None:
    assert {JobState.RUNNING} | WAITING | ENDED == set(JobState)
    assert not WAITING & ENDED
    assert set(ALLOWED) == set(JobState)


def test_nothing_leaves_an_end_state() -> None:
    for before, after in itertools.product(ENDED, JobState):
        with pytest.raises(IllegalTransition):
            check_transition(before, after)


def test_only_a_waiting_job_starts_and_only_a_running_one_succeeds() -> None:
    assert {state for state in JobState if JobState.RUNNING in ALLOWED[state]} == WAITING
    for end in (JobState.SUCCEEDED, JobState.QUARANTINED, JobState.WAITING_RETRY, JobState.QUEUED):
        assert {state for state in JobState if end in ALLOWED[state]} == {JobState.RUNNING}


def test_a_refused_change_names_both_states() -> None:
    with pytest.raises(IllegalTransition, match="a job cannot go from succeeded to running"):
        check_transition(JobState.SUCCEEDED, JobState.RUNNING)
    check_transition(JobState.QUEUED, JobState.RUNNING)
