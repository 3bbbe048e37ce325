"""Agenda: where every node of every run stands, and which is next. It calls no node, no cache and no watcher.

Demand runs from the targets up, readiness runs down. Newest-ready goes first, oldest run first. A value is let go when its
last reader has it. Of equal keys in flight one leads and the others follow. The agenda has no lock of its own: whoever calls
it holds the scheduler's.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping

from .cache import Ports
from .dag import GraphNode, Link, each_link
from .node import Node
from .run import LIVE, NodeReport, Run, State, Task

_ENDED_BADLY = frozenset((State.FAILED, State.BLOCKED, State.CANCELLED))


class Agenda:
    """The states of tasks, and the queue of each lane."""

    def __init__(self, lanes: Iterable[str]) -> None:
        self._ready: dict[str, list[tuple[int, int, Task]]] = {lane: [] for lane in lanes}
        self._new: list[str] = []
        self._leaders: dict[str, Task] = {}
        self._ticket = itertools.count()

    def demand(self, first: Task) -> None:
        """Asks for a node and, as far as needed, for what it reads."""
        pending = [first]
        while pending:
            task = pending.pop()
            if task.state is not State.IDLE:
                continue
            task.run.live += 1
            if task.fetch:
                self._enqueue(task)
            else:
                pending.extend(self._wait_for(task, eager_links(task.node)))

    def wait_again(self, task: Task, links: Iterable[Link]) -> None:
        """Lets a running task wait for further inputs; who followed it looks for another leader."""
        followers = self.take_followers(task)
        for source in self._wait_for(task, links):
            self.demand(source)
        self.requeue(followers)

    def claim(self, lane: str) -> Task | None:
        """Returns the next ready task of a lane, running now, or None if there is none."""
        queue = self._ready[lane]
        while queue:
            task = heapq.heappop(queue)[2]
            if task.state is not State.READY:
                continue
            leader = task if task.key is None or task.fetch else self._leaders.setdefault(task.key, task)
            if leader is task:
                task.state = State.RUNNING
                return task
            task.state = State.FOLLOWING
            leader.followers.append(task)
        return None

    def take_newly_ready(self) -> list[str]:
        """Returns the lane of each task that became ready since the last call."""
        lanes, self._new = self._new, []
        return lanes

    def take_inputs(self, task: Task) -> dict[str, tuple[Ports, bool]]:
        """Returns what a running task reads, by node, and whether it is the task's own; then the agenda forgets it.

        A value that others read too is not the task's own and must be copied. One that was given away is computed or
        fetched again should a lazy node ask for it later.
        """
        inputs: dict[str, tuple[Ports, bool]] = {}
        shared: list[Task] = []
        for source in task.reads:
            if source.ports is None:
                raise RuntimeError(f"the value of {source.id!r} was let go before {task.id!r} read it")
            own = source.readers == 1 and not source.node.cls.spec.effect
            inputs[source.id] = (source.ports, own)
            if own:
                source.readers = 0
                self._release(source)
            else:
                shared.append(source)
        task.reads = tuple(shared)
        return inputs

    def take_followers(self, task: Task) -> list[Task]:
        """Ends a task's lead and returns its followers as running, so that nobody but the caller ends them."""
        if task.key is not None and self._leaders.get(task.key) is task:
            del self._leaders[task.key]
        followers = [one for one in task.followers if one.state in (State.FOLLOWING, State.RUNNING)]
        for one in followers:
            one.state = State.RUNNING
        task.followers = followers
        return followers

    def requeue(self, followers: Iterable[Task]) -> None:
        """Makes followers ready again, to be called before the lock is let go of in which they were taken."""
        for task in followers:
            self._enqueue(task)

    def end(self, task: Task, state: State, report: NodeReport) -> None:
        """Ends a task, lets go of what it read, and makes ready or blocks those that wait for it."""
        pending = [(task, state, report)]
        while pending:
            one, one_state, one_report = pending.pop()
            if one.state not in LIVE:
                continue  # it waited for two that ended, and has ended with the first
            one.run.live -= 1
            one.state, one.report = one_state, one_report
            waiters, one.waiters, one.followers = one.waiters, [], []
            for source in one.reads:
                source.readers -= 1
                self._release(source)
            one.reads = ()
            self._release(one)
            for waiter in waiters:
                if waiter.state is not State.WAITING:
                    continue
                if one_state is State.DONE:
                    waiter.missing -= 1
                    if waiter.missing == 0:
                        self._enqueue(waiter)
                else:
                    outcome = State.CANCELLED if one_state is State.CANCELLED else State.BLOCKED
                    pending.append((waiter, outcome, NodeReport(outcome.value)))

    def cancel(self, run: Run) -> None:
        """Cancels a run: nothing of it starts any more; what runs ends by itself."""
        run.cancelled = True
        for task in list(run.tasks.values()):
            if task.state in (State.WAITING, State.READY, State.FOLLOWING):
                self.end(task, State.CANCELLED, NodeReport("cancelled"))

    def _wait_for(self, task: Task, links: Iterable[Link]) -> list[Task]:
        """Makes a task wait for the nodes of some links; returns those that nobody asked for yet."""
        known = {source.id for source in task.reads}
        sources = [task.run.tasks[id] for id in dict.fromkeys(link.node for link in links) if id not in known]
        task.reads += tuple(sources)
        task.state = State.WAITING
        task.missing = 0
        blocked = False
        for source in sources:
            source.readers += 1
            blocked = blocked or source.state in _ENDED_BADLY
        if blocked:
            self.end(task, State.BLOCKED, NodeReport("blocked"))
            return []
        for source in sources:
            if source.state is not State.DONE:
                task.missing += 1
                source.waiters.append(task)
        if task.missing == 0:
            self._enqueue(task)
        return [source for source in sources if source.state is State.IDLE]

    def _enqueue(self, task: Task) -> None:
        lane = task.node.cls.spec.lane
        task.state = State.READY
        heapq.heappush(self._ready[lane], (task.run.order, -next(self._ticket), task))
        self._new.append(lane)

    def _release(self, task: Task) -> None:
        """Forgets a value that nobody waits for; asked for again, it is fetched or computed again, but never an effect."""
        if task.readers == 0 and task.state is State.DONE and not task.node.cls.spec.effect:
            task.ports = task.chosen = None
            task.fetch = task.key is not None
            task.state = State.IDLE


def is_lazy(cls: type[Node]) -> bool:
    """Returns whether a node says at run time which entries of its map inputs it needs."""
    return cls.wanted.__func__ is not Node.wanted.__func__  # type: ignore[attr-defined]


def eager_links(node: GraphNode) -> Iterable[Link]:
    """Returns the links that a node needs from the start: all, or for a lazy node those of inputs that are not maps."""
    if not is_lazy(node.cls):
        return node.sources()
    return [link for links in node.links.values() if not isinstance(links, Mapping) for link in each_link(links)]
