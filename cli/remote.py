"""A job on a server in the words of a run on this machine, so that both are shown by one piece: its events, and its end."""

from __future__ import annotations

from typing import Any

from latentgraph.graph import (
    Event,
    NodeErred,
    NodeFinished,
    NodeProgress,
    NodeReport,
    NodeReused,
    NodeStarted,
    NodeWarned,
    RunResult,
    RunStarted,
)
from latentgraph.graph.run import RunId
from latentgraph.server.api.job_views import EventView, JobView

WAITS = {
    "queued": "waits in the queue",
    "retrying": "waits for its next attempt",
    "restarted": "waits in the queue",
    "put_back": "waits in the queue",
    "cancel_requested": "is being cancelled",
}
"""What a job waits for after an event, by the kind of the event."""


def as_event(job: str, told: EventView) -> Event | None:
    """Returns an event of a job as one of a run, or None for what a run has not.

    What a node saved is none: the file is on the server, and is told of once it is here.
    """
    data = told.data
    where = (job, _text(data, "node"), _text(data, "node_type"))
    match told.kind:
        case "started" | "planned":  # of an attempt, which may be planned anew; how many nodes it needs is told second
            return RunStarted(job, nodes=_count(data, "nodes"))
        case "node_started":
            return NodeStarted(*where)
        case "node_cached":
            return NodeReused(*where, tier=_text(data, "tier"))
        case "progress":
            left = data.get("seconds_left")
            step, total = _count(data, "step"), _count(data, "total")
            return NodeProgress(*where, step, total, float(left) if isinstance(left, int | float) else None)
        case "node_finished":
            return NodeFinished(*where)
        case "node_failed":
            return NodeErred(*where)
        case "warning":
            return NodeWarned(*where, message=_text(data, "message"))
    return None


def why_again(told: EventView) -> str | None:
    """Returns why a job runs another time, if an event says that it does."""
    if told.kind == "restarted":
        return "the server was restarted; the job runs again"
    if told.kind != "retrying":
        return None
    why = told.data.get("why")
    reason = _text(why, "message") if isinstance(why, dict) else ""
    return f"attempt {told.attempt} failed: {reason or 'no reason is told'}; the job is tried again"


def as_result(job: JobView) -> RunResult:
    """Returns the end of a job as that of a run."""
    nodes = {id: NodeReport(node.status, node.tier or None, node.seconds) for id, node in job.nodes.items()}
    return RunResult(RunId(job.id), job.state.value, job.values, nodes, job.seconds or 0.0)


def _count(data: dict[str, Any], name: str) -> int:
    value = data.get(name)
    return value if isinstance(value, int) else 0


def _text(data: dict[str, Any], name: str) -> str:
    value = data.get(name, "")
    return value if isinstance(value, str) else ""
