"""Scheduler: computes plans on lanes of worker threads. It does not know what a node computes.

Demand runs from the targets up, values run down. A node that is asked for is either fetched (the plan says that the cache has
it) or waits for its inputs; a fetch that misses after all asks for its inputs then. A worker that finishes a node takes the
next ready one itself, so a chain stays on one thread. Newest-ready goes first, oldest run first, and a value is let go when
its last reader has it. Equal keys in flight are computed once.

All state changes happen under one lock and in the methods marked "locked"; nodes, caches and watchers are called without it.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Condition, Lock, Thread
from typing import Any

from .cache import Cache, Ports
from .dag import GraphNode, Link, Links, each_link
from .errors import FileNotUsable, LatentGraphError, NodeFailed, RunCancelled
from .events import (
    NodeErred,
    NodeFinished,
    NodeReused,
    NodeStarted,
    OnEvent,
    RunFinished,
)
from .files import Fingerprints
from .node import Lane, Node
from .plan import Plan, is_cached
from .run import LIVE, NodeReport, Run, RunContext, RunResult, State, Task
from .values import ValueCodec

DEFAULT_LANES: Mapping[Lane, int] = {"device": 1, "cpu": 2, "io": 2}
"""Worker threads a lane."""


class Scheduler:
    """Runs plans. Several runs share its lanes; close it when done, or use it as a context manager."""

    def __init__(
        self,
        cache: Cache,
        codec: ValueCodec,
        *,
        fingerprints: Fingerprints | None = None,
        lanes: Mapping[Lane, int] = DEFAULT_LANES,
        resources: Mapping[type, Any] | None = None,
    ) -> None:
        self._cache, self._codec = cache, codec
        self._fingerprints = fingerprints or Fingerprints()
        self._resources = dict(resources or {})
        self._lock = Lock()
        self._ready: dict[str, list[tuple[int, int, Task]]] = {lane: [] for lane in lanes}
        self._wake = {lane: Condition(self._lock) for lane in lanes}
        self._in_flight: dict[str, Task] = {}
        self._ticket = itertools.count()
        self._order = itertools.count()
        self._closed = False
        self._threads = [
            Thread(target=self._work, args=(lane,), name=f"latentgraph-{lane}-{index}", daemon=True)
            for lane, count in lanes.items()
            for index in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(
        self,
        plan: Plan,
        *,
        on_event: OnEvent | None = None,
        output_dir: Path = Path("output"),
        provenance: Mapping[str, str] | None = None,
    ) -> Run:
        """Starts a run of a plan and returns at once.

        output_dir: where nodes save. provenance: texts that a saved file should carry, by key.
        """
        if self._closed:
            raise LatentGraphError("the scheduler is closed; make a new one")
        run = Run(plan, next(self._order), output_dir=output_dir, provenance=provenance or {}, on_event=on_event)
        graph = plan.graph
        for id, node in graph.nodes.items():
            key = plan.keys[id] if is_cached(graph, id) else None
            run.tasks[id] = Task(run, id, node, key, fetch=id in plan.reuse)
        kept = {link.node for links in graph.outputs.values() for link in each_link(links)}
        with self._lock:
            for target in plan.targets:
                run.tasks[target].readers += target in kept
                self._demand(run.tasks[target])
            for lane, wake in self._wake.items():
                wake.notify(len(self._ready[lane]))
        self._finish_if_over(run)
        return run

    def run(
        self,
        plan: Plan,
        *,
        on_event: OnEvent | None = None,
        output_dir: Path = Path("output"),
        provenance: Mapping[str, str] | None = None,
    ) -> RunResult:
        """Runs a plan and returns its result; an interrupt of the waiting thread cancels the run and is raised on."""
        run = self.start(plan, on_event=on_event, output_dir=output_dir, provenance=provenance)
        try:
            return run.wait()
        except BaseException:
            self.cancel(run)
            run.wait()
            raise

    def cancel(self, run: Run) -> None:
        """Cancels a run: nothing of it starts any more, and what computes stops at its next step. Safe to repeat."""
        with self._lock:
            run.cancelled = True
            for task in run.tasks.values():
                if task.state in (State.WAITING, State.READY, State.FOLLOWING):
                    self._end(task, State.CANCELLED, NodeReport("cancelled"))
        self._finish_if_over(run)

    def close(self) -> None:
        """Ends the worker threads once what they compute is done; nothing further starts."""
        with self._lock:
            self._closed = True
            for wake in self._wake.values():
                wake.notify_all()
        for thread in self._threads:
            thread.join()

    # -- worker threads: these call nodes, caches and watchers, without the lock ------------------------------------------

    def _work(self, lane: Lane) -> None:
        queue, wake = self._ready[lane], self._wake[lane]
        while True:
            with self._lock:
                task = None
                while task is None:
                    while not queue and not self._closed:
                        wake.wait()
                    if self._closed:
                        return
                    task = self._claim(heapq.heappop(queue)[2])
            self._execute(task, lane)

    def _execute(self, task: Task, lane: Lane) -> None:
        """Fetches or computes one node and hands on what came of it."""
        begun = time.perf_counter()
        try:
            hit = self._cache.get(task.key) if task.key is not None else None
            if hit is not None:
                self._complete(task, hit.ports, NodeReport("cached", hit.tier, hit.seconds), lane)
                return
            if self._asks_for_more(task, lane):
                return
            if task.run.watched:
                task.run.emit(NodeStarted(*task.where))
            begun = time.perf_counter()
            ports = self._compute(task)
            seconds = time.perf_counter() - begun
            if task.key is not None:
                self._cache.put(task.key, ports, seconds)
            self._complete(task, ports, NodeReport("ran", None, seconds, files=tuple(task.files)), lane)
        except RunCancelled:
            self._fail(task, State.CANCELLED, NodeReport("cancelled", None, time.perf_counter() - begun))
        except BaseException as error:  # noqa: BLE001 - a node may raise anything; it must not end the worker
            failure = NodeFailed(task.id, task.node.cls.__name__, error)
            failure.__cause__ = error
            self._fail(task, State.FAILED, NodeReport("failed", None, time.perf_counter() - begun, failure))

    def _asks_for_more(self, task: Task, lane: Lane) -> bool:
        """Returns whether the node must wait for inputs that nobody asked for yet: a fetch that missed, or a Switch."""
        wanted: tuple[Link, ...] | None = None
        if not task.fetch and task.chosen is None and _is_lazy(task.node.cls):
            given = {
                name: self._value(task, links) for name, links in task.node.links.items() if not isinstance(links, dict)
            }
            maps = {name: links for name, links in task.node.links.items() if isinstance(links, dict)}
            chosen = task.node.cls.wanted({**task.node.literals, **given, **maps}) or {}
            wanted = tuple(maps[name][entry] for name, entries in chosen.items() for entry in entries)
        if not task.fetch and wanted is None:
            return False
        with self._lock:
            self._release_claim(task)
            task.fetch = False
            if wanted is not None:
                task.chosen = wanted
                self._await(task, wanted)
            else:
                self._await(task, _eager_links(task.node))
            if task.state is State.READY:
                self._wake[lane].notify()
        return True

    def _compute(self, task: Task) -> Ports:
        node = task.node
        values: dict[str, Any] = dict(node.literals)
        values.update(node.files)
        for name, links in node.links.items():
            port = node.cls.spec.inputs[name]
            value = self._value(task, links)
            if port.literal:
                value, code = port.accept(value)
                if code:
                    raise LatentGraphError(f"input {name!r} was given {value!r} by its link; expected {port.expected}")
            values[name] = value
        instance = node.cls.model_construct(**values)
        ports = instance.ports(instance.run(RunContext(task, self._resources)))
        for path in node.files.values():
            if not self._fingerprints.unchanged(path):
                raise FileNotUsable(f"the file {str(path)!r} changed while the run used it; run again")
        return ports

    def _value(self, task: Task, links: Links) -> Any:
        """Returns what an input is linked to. A value that others read too is copied, so that nobody can change theirs."""
        if isinstance(links, Link):
            return self._read(task, links)
        if isinstance(links, Mapping):
            taken = links.values() if task.chosen is None else task.chosen
            return {name: self._read(task, link) if link in taken else None for name, link in links.items()}
        read = [self._read(task, link) for link in links]
        return read[0] if len(read) == 1 and isinstance(read[0], list) else read

    def _read(self, task: Task, link: Link) -> Any:
        source = task.run.tasks[link.node]
        if source.ports is None:
            raise LatentGraphError(f"the value of {link} was let go too early; this is a fault of the scheduler")
        value = source.ports[link.port]
        return value if source.readers == 1 else self._codec.copy(value)

    def _complete(self, task: Task, ports: Ports, report: NodeReport, lane: Lane) -> None:
        """Hands a result to those who wait for it, in this run and, for equal nodes, in others."""
        self._tell(task, report)
        shared = NodeReport("cached", "shared", report.seconds)
        for follower in self._take_followers(task):
            self._tell(follower, shared)
            self._settle(follower, {name: self._codec.copy(value) for name, value in ports.items()}, shared, lane)
        self._settle(task, ports, report, lane)

    def _fail(self, task: Task, state: State, report: NodeReport) -> None:
        """Ends a node without a result. Equal nodes fail with it, but if it was cancelled one of them takes over."""
        failed = [task]
        for follower in self._take_followers(task):
            if state is State.CANCELLED:
                with self._lock:
                    if follower.state is not State.FOLLOWING:
                        continue  # it was cancelled meanwhile
                    self._enqueue(follower)
                    self._wake[follower.node.cls.spec.lane].notify()
            else:
                failed.append(follower)
        for one in failed:
            if report.error is not None:
                one.run.emit(NodeErred(*one.where, report.error))
            with self._lock:
                if one.state in LIVE:
                    self._end(one, state, report)
            self._finish_if_over(one.run)

    def _take_followers(self, task: Task) -> list[Task]:
        with self._lock:
            self._release_claim(task)
            followers, task.followers = task.followers, []
            return [follower for follower in followers if follower.state is State.FOLLOWING]

    def _settle(self, task: Task, ports: Ports, report: NodeReport, lane: Lane) -> None:
        with self._lock:
            if task.state not in LIVE:
                return  # it was cancelled meanwhile
            task.ports = ports
            self._notify(self._end(task, State.DONE, report), lane)
            if task.run.live:
                return
        self._finish_if_over(task.run)

    def _tell(self, task: Task, report: NodeReport) -> None:
        if not task.run.watched:
            return
        if report.status == "cached":
            task.run.emit(NodeReused(*task.where, report.tier or "", report.seconds))
        else:
            task.run.emit(NodeFinished(*task.where, report.seconds))

    def _finish_if_over(self, run: Run) -> None:
        with self._lock:
            over = run.live == 0 and run.result is None and not run.closing
            run.closing = run.closing or over
        if over:
            self._finish(run)

    def _finish(self, run: Run) -> None:
        reports = {id: task.report or NodeReport("skipped") for id, task in run.tasks.items()}
        failed = any(report.status == "failed" for report in reports.values())
        status = "failed" if failed else "cancelled" if run.cancelled else "succeeded"
        outputs: dict[str, Any] = {}
        for name, links in run.plan.graph.outputs.items():
            sources = [run.tasks[link.node].ports for link in each_link(links)]
            if all(ports is not None for ports in sources):
                values = [
                    ports[link.port] for ports, link in zip(sources, each_link(links), strict=True) if ports is not None
                ]
                outputs[name] = values[0] if isinstance(links, Link) else values
        result = RunResult(run.id, status, outputs, reports, time.perf_counter() - run.started)
        run.tasks.clear()
        run.emit(RunFinished(run.id, status=status))
        run.close(result)

    # -- locked: these change the state, and call nothing outside ---------------------------------------------------------

    def _demand(self, first: Task) -> None:
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
                pending.extend(self._wait_for(task, _eager_links(task.node)))

    def _await(self, task: Task, links: Iterable[Link]) -> None:
        """Lets a claimed task wait for further inputs."""
        for source in self._wait_for(task, links):
            self._demand(source)

    def _wait_for(self, task: Task, links: Iterable[Link]) -> list[Task]:
        """Makes a task wait for the nodes of some links; returns those that nobody asked for yet."""
        ids = [id for id in dict.fromkeys(link.node for link in links) if id not in task.reads]
        sources = [task.run.tasks[id] for id in ids]
        task.reads += ids
        task.state = State.WAITING
        task.missing = 0
        for source in sources:
            source.readers += 1
        if any(source.state in (State.FAILED, State.BLOCKED, State.CANCELLED) for source in sources):
            self._end(task, State.BLOCKED, NodeReport("blocked"))
            return []
        for source in sources:
            if source.state is not State.DONE:
                task.missing += 1
                source.waiters.append(task)
        if task.missing == 0:
            self._enqueue(task)
        return [source for source in sources if source.state is State.IDLE]

    def _enqueue(self, task: Task) -> None:
        task.state = State.READY
        heapq.heappush(self._ready[task.node.cls.spec.lane], (task.run.order, -next(self._ticket), task))

    def _claim(self, task: Task) -> Task | None:
        """Marks a ready task as running; None if it was cancelled, or if an equal one computes and it can follow that."""
        if task.state is not State.READY:
            return None
        if task.key is not None and not task.fetch:
            leader = self._in_flight.setdefault(task.key, task)
            if leader is not task:
                task.state = State.FOLLOWING
                leader.followers.append(task)
                return None
        task.state = State.RUNNING
        return task

    def _release_claim(self, task: Task) -> None:
        if task.key is not None and self._in_flight.get(task.key) is task:
            del self._in_flight[task.key]

    def _end(self, task: Task, state: State, report: NodeReport) -> list[Task]:
        """Ends a task, blocks what can't go on without it, lets go of what it read; returns the tasks that became ready."""
        ready: list[Task] = []
        pending = [(task, state, report)]
        while pending:
            one, one_state, one_report = pending.pop()
            if one.state in LIVE:
                one.run.live -= 1
            one.state, one.report = one_state, one_report
            waiters, one.waiters = one.waiters, []
            self._let_go(one)
            self._release(one)
            for waiter in waiters:
                if waiter.state is not State.WAITING:
                    continue
                if one_state is State.DONE:
                    waiter.missing -= 1
                    if waiter.missing == 0:
                        self._enqueue(waiter)
                        ready.append(waiter)
                else:
                    outcome = State.CANCELLED if one_state is State.CANCELLED else State.BLOCKED
                    pending.append((waiter, outcome, NodeReport(outcome.value)))
        return ready

    def _let_go(self, task: Task) -> None:
        """Counts the task off as a reader of what it read; a value without readers is released."""
        reads, task.reads = task.reads, []
        for id in reads:
            source = task.run.tasks[id]
            source.readers -= 1
            self._release(source)

    def _release(self, task: Task) -> None:
        """Forgets a value that nobody waits for; asked for again, it is fetched or computed again, but never an effect."""
        if task.readers == 0 and task.state is State.DONE and not task.node.cls.spec.effect:
            task.ports = None
            task.state = State.IDLE

    def _notify(self, woken: list[Task], lane: Lane) -> None:
        """Wakes workers for tasks that became ready, but for the one that this worker takes itself."""
        kept = False
        for task in woken:
            if task.node.cls.spec.lane == lane and not kept:
                kept = True
                continue
            self._wake[task.node.cls.spec.lane].notify()


def _is_lazy(cls: type[Node]) -> bool:
    return cls.wanted.__func__ is not Node.wanted.__func__  # type: ignore[attr-defined]


def _eager_links(node: GraphNode) -> Iterable[Link]:
    """Returns the links that a node needs from the start: all, or for a lazy node those of inputs that are not maps."""
    if not _is_lazy(node.cls):
        return node.sources()
    return [link for links in node.links.values() if not isinstance(links, Mapping) for link in each_link(links)]
