"""One run of a plan: the state of its nodes, and what it reports. The scheduler owns and changes it; others read and wait."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from threading import Event as Flag
from threading import RLock
from typing import Any, NewType

from .cache import Ports
from .context import Context, Preview
from .dag import GraphNode, Link, each_link
from .errors import NodeFailed, RunCancelled
from .events import Event, NodeProgress, NodeSaved, NodeWarned, OnEvent, RunFinished
from .plan import Plan, is_cached

_log = logging.getLogger(__name__)

RunId = NewType("RunId", str)


class State(Enum):
    """Where a node of a run stands."""

    IDLE = "idle"  # nobody asked for it yet, or its value was let go
    WAITING = "waiting"  # asked for; its inputs are not all there
    READY = "ready"  # in its lane's queue
    RUNNING = "running"
    FOLLOWING = "following"  # an equal node computes; its result will serve
    DONE = "done"  # its value is held for readers
    FAILED = "failed"
    BLOCKED = "blocked"  # something it needs failed
    CANCELLED = "cancelled"


LIVE = frozenset((State.WAITING, State.READY, State.RUNNING, State.FOLLOWING))


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What became of a node: "ran", "cached" (with the tier), "failed", "blocked", "cancelled" or "skipped".

    seconds: what computing it took, now or, if it was cached, when it was made. files: what it saved.
    """

    status: str
    tier: str | None = None
    seconds: float = 0.0
    error: BaseException | None = None
    files: tuple[Path, ...] = ()


_SKIPPED = NodeReport("skipped")


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run gave. `outputs` holds those that were reached, by name; a list where the document gathers several."""

    run: RunId
    status: str
    outputs: Mapping[str, Any]
    nodes: Mapping[str, NodeReport]
    seconds: float

    @property
    def failures(self) -> dict[str, BaseException]:
        """The errors of the nodes that failed, by node id."""
        return {id: report.error for id, report in self.nodes.items() if report.error is not None}

    def raise_failure(self) -> None:
        """Raises NodeFailed for the first node that failed, or RunCancelled."""
        for report in self.nodes.values():
            if isinstance(report.error, NodeFailed):
                raise report.error from report.error.cause
        if self.status == "cancelled":
            raise RunCancelled(f"run {self.run} was cancelled")


@dataclass(eq=False, slots=True)
class Task:
    """A node in a run.

    key: None for what no cache may give. fetch: the cache is asked before the inputs are. missing: how many inputs are not
    there yet. reads: the nodes that it counts as a reader of; readers: how many will still read its own value. chosen: the
    links that a lazy node wanted.
    """

    run: Run
    id: str
    node: GraphNode
    key: str | None
    fetch: bool
    state: State = State.IDLE
    missing: int = 0
    readers: int = 0
    reads: tuple[Task, ...] = ()
    ports: Ports | None = None
    waiters: list[Task] = field(default_factory=list)
    followers: list[Task] = field(default_factory=list)
    chosen: tuple[Link, ...] | None = None
    report: NodeReport | None = None
    files: tuple[Path, ...] = ()

    @property
    def where(self) -> tuple[str, str, str]:
        """What every event of the node begins with: the run, the node, the node's type."""
        return self.run.id, self.id, self.node.cls.__name__


class Tasks(dict[str, Task]):
    """The nodes of a run that something asked for or looked at; each is made at that moment, so a run costs what it needs."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def __missing__(self, id: str) -> Task:
        plan = self._run.plan
        key = plan.keys[id] if is_cached(plan.graph, id) else None
        task = Task(self._run, id, plan.graph.nodes[id], key, fetch=id in plan.reuse)
        return self.setdefault(id, task)  # another thread may have made it meanwhile


class Run:
    """A run that was started. `wait` gives its result; `cancel` stops it at the next step of whatever it computes."""

    def __init__(
        self,
        plan: Plan,
        order: int,
        *,
        output_dir: Path,
        provenance: Mapping[str, str],
        on_event: OnEvent | None,
    ) -> None:
        self.id = RunId(uuid.uuid4().hex[:12])
        self.plan, self.order = plan, order
        self.output_dir, self.provenance = output_dir, provenance
        self.cancelled = False
        self.closing = False
        self.tasks: dict[str, Task] = Tasks(self)
        self.live = 0
        self.started = time.perf_counter()
        self.result: RunResult | None = None
        self._done = Flag()
        self._on_event = on_event
        self._event_lock = RLock()  # a watcher may cancel, and so cause the next event

    def wait(self, timeout_seconds: float | None = None) -> RunResult:
        """Returns the result once the run is over. Raises TimeoutError if it is not within `timeout_seconds`."""
        if not self._done.wait(timeout_seconds) or self.result is None:
            raise TimeoutError(f"run {self.id} is not over after {timeout_seconds} s")
        return self.result

    @property
    def watched(self) -> bool:
        """Whether anyone gets the events, so that it pays to make them."""
        return self._on_event is not None

    def emit(self, event: Event) -> None:
        """Hands an event to whoever watches, one at a time."""
        with self._event_lock:
            try:
                if self._on_event is not None:
                    self._on_event(event)
            except Exception:  # noqa: BLE001 - whoever watches must not harm what runs
                _log.exception("a watcher of run %s failed on %s; the run goes on", self.id, type(event).__name__)

    def finish(self) -> None:
        """Makes the result from what became of the nodes, tells it, and wakes those who wait for it."""
        tasks, self.tasks = self.tasks, {}
        ended = {id: task.report for id, task in tasks.items() if task.report is not None}
        reports = {id: ended.get(id, _SKIPPED) for id in self.plan.graph.nodes}
        statuses = {report.status for report in reports.values()}
        status = next((word for word in ("failed", "cancelled") if word in statuses), "succeeded")
        outputs: dict[str, Any] = {}
        for name, links in self.plan.graph.outputs.items():
            sources = [(tasks[link.node].ports, link.port) for link in each_link(links)]
            values = [ports[port] for ports, port in sources if ports is not None]
            if len(values) == len(sources):
                outputs[name] = values[0] if isinstance(links, Link) else values
        self.result = RunResult(self.id, status, outputs, reports, time.perf_counter() - self.started)
        self.emit(RunFinished(self.id, status=status))
        self._done.set()


class RunContext(Context):
    """What a node of a run sees: its progress becomes events, and a cancelled run stops it."""

    __slots__ = ("_begun", "_task")

    def __init__(self, task: Task, resources: Mapping[type, Any]) -> None:
        run = task.run
        super().__init__(
            node=task.id,
            output_dir=run.output_dir,
            provenance=run.provenance,
            resources=resources,
            text_files=task.node.text_files,
            companions=task.node.companions,
        )
        self._task = task
        self._begun = time.perf_counter()

    def progress(self, step: int, total: int, preview: Preview | None = None) -> None:
        """See Context. The time left is estimated from the steps so far."""
        self.check_cancelled()
        if self._task.run.watched:
            left = (time.perf_counter() - self._begun) / step * (total - step) if step else None
            self._task.run.emit(NodeProgress(*self._task.where, step, total, left, preview))

    def check_cancelled(self) -> None:
        """See Context."""
        if self._task.run.cancelled:
            raise RunCancelled(f"the run was cancelled while node {self.node!r} ran")

    def warn(self, message: str) -> None:
        """See Context."""
        self._task.run.emit(NodeWarned(*self._task.where, message))

    def saved(self, path: Path) -> None:
        """See Context."""
        self._task.files += (path,)
        self._task.run.emit(NodeSaved(*self._task.where, path))
