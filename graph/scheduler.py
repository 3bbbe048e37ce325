"""Scheduler: computes plans on lanes of worker threads. It does not know what a node computes.

A node that is asked for is either fetched (the plan says that the cache has it) or waits for its inputs; a fetch that misses
after all asks for its inputs then. A worker that finishes a node takes the next ready one itself, so a chain stays on one
thread.

All state changes happen in the Agenda, under one lock; nodes, caches and watchers are called without it. What happens to a
node is told before its state changes, so a watcher hears of a node before it hears of anything that follows.
"""

from __future__ import annotations

import itertools
import logging
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from threading import Condition, Lock, Thread, current_thread
from typing import Any

from .agenda import Agenda, eager_links, is_lazy
from .cache import Cache, Hit, Ports
from .dag import Link, each_link
from .errors import FileNotUsable, LatentGraphError, NodeFailed, RunCancelled
from .events import NodeErred, NodeFinished, NodeReused, NodeStarted, OnEvent, RunStarted
from .fingerprints import Fingerprints
from .inputs import Inputs, input_values, wanted_links
from .node import Lane
from .plan import Plan
from .run import NodeReport, Run, RunContext, RunResult, State, Task
from .values import ValueCodec

_log = logging.getLogger(__name__)

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
        self._agenda = Agenda(lanes)
        self._wake: dict[str, Condition] = {lane: Condition(self._lock) for lane in lanes}
        self._runs: dict[str, Run] = {}
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
        run = Run(plan, next(self._order), output_dir=output_dir, provenance=provenance or {}, on_event=on_event)
        run.emit(RunStarted(run.id, nodes=len(plan.run) + len(plan.reuse)))
        kept = {link.node for links in plan.graph.outputs.values() for link in each_link(links)}
        with self._lock:
            if self._closed:
                raise LatentGraphError("the scheduler is closed; make a new one")
            self._runs[run.id] = run
            for target in plan.targets:
                run.tasks[target].readers += target in kept
                self._agenda.demand(run.tasks[target])
            self._announce()
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
            self._agenda.cancel(run)
        self._finish_if_over(run)

    def close(self) -> None:
        """Cancels what still runs and ends the worker threads once what they compute has stopped. Safe to repeat."""
        with self._lock:
            self._closed = True
            runs = list(self._runs.values())
            for wake in self._wake.values():
                wake.notify_all()
        for run in runs:
            self.cancel(run)
        for thread in self._threads:
            if thread is not current_thread():
                thread.join()

    def _work(self, lane: str) -> None:
        """Runs a worker thread until the scheduler is closed."""
        wake = self._wake[lane]
        while True:
            with self._lock:
                while (task := self._agenda.claim(lane)) is None and not self._closed:
                    wake.wait()
            if task is None:
                return
            self._execute(task, lane)
            del task  # or its values would live until the next one comes

    def _execute(self, task: Task, lane: str) -> None:
        """Fetches or computes one node and hands on what came of it."""
        begun = time.perf_counter()
        try:
            hit = self._fetch(task.key) if task.key is not None else None
            if hit is not None:
                self._complete(task, hit.ports, NodeReport("cached", hit.tier, hit.seconds), lane)
                return
            if self._asks_for_more(task, lane):
                return
            if task.run.cancelled:
                raise RunCancelled("the run was cancelled")
            if task.run.watched:
                task.run.emit(NodeStarted(*task.where))
            begun = time.perf_counter()
            ports = self._compute(task)
            seconds = time.perf_counter() - begun
            if task.key is not None:
                self._keep(task.key, ports, seconds)
            self._complete(task, ports, NodeReport("ran", None, seconds, files=task.files), lane)
        except BaseException as error:  # noqa: BLE001 - a node may raise anything; it must not end the worker
            traceback.clear_frames(error.__traceback__)  # their variables may hold much memory
            seconds = time.perf_counter() - begun
            if isinstance(error, RunCancelled) and task.run.cancelled:
                self._stop(task, seconds, lane)
            else:
                self._fail(task, error, seconds, lane)

    def _fetch(self, key: str) -> Hit | None:
        try:
            return self._cache.get(key)
        except Exception:  # noqa: BLE001 - a fault of the cache is a miss
            _log.exception("the cache could not give %s; it is computed again", key)
            return None

    def _keep(self, key: str, ports: Ports, seconds: float) -> None:
        try:
            self._cache.put(key, ports, seconds)
        except Exception:  # noqa: BLE001 - a fault of the cache costs time only
            _log.exception("the cache could not keep %s; the run goes on without it", key)

    def _asks_for_more(self, task: Task, lane: str) -> bool:
        """Returns whether the node must wait for inputs that nobody asked for yet: a fetch that missed, or a Switch."""
        cached: set[str] = set()
        links: tuple[Link, ...]
        if task.fetch:
            links = tuple(eager_links(task.node))
            cached = self._cached_above(task, links)
        elif task.chosen is None and is_lazy(task.node.cls):
            links = task.chosen = self._choose(task)
        else:
            return False
        with self._lock:
            if task.run.cancelled:
                raise RunCancelled("the run was cancelled")
            task.fetch = False
            for id in cached:
                above = task.run.tasks[id]
                above.fetch = above.fetch or above.state is State.IDLE
            self._agenda.wait_again(task, links)
            self._announce(lane)
        self._finish_if_over(task.run)
        return True

    def _cached_above(self, task: Task, links: tuple[Link, ...]) -> set[str]:
        """Returns the nodes above some links that the cache has, as far as they are needed and nobody asked for them."""
        tasks, found, seen = task.run.tasks, set[str](), set[str]()
        pending = [link.node for link in links]
        while pending:
            id = pending.pop()
            if id in seen or tasks[id].state is not State.IDLE:
                continue
            seen.add(id)
            key = tasks[id].key
            if key is not None and self._cache.tier(key) is not None:
                found.add(id)
            else:
                pending.extend(link.node for link in eager_links(tasks[id].node))
        return found

    def _choose(self, task: Task) -> tuple[Link, ...]:
        """Returns the links among a lazy node's maps that it wants."""
        with self._lock:
            inputs: Inputs = {source.id: (source.ports or {}, False) for source in task.reads}
        return wanted_links(task, inputs, self._codec)

    def _compute(self, task: Task) -> Ports:
        node = task.node
        with self._lock:
            inputs = self._agenda.take_inputs(task)
        instance = node.cls.model_construct(**input_values(task, inputs, self._codec))
        ports = instance.ports(instance.run(RunContext(task, self._resources)))
        for path in node.reads.values():
            if self._fingerprints.look(path) != task.run.plan.keys.files.get(path):
                raise FileNotUsable(f"the file {str(path)!r} changed while the run used it; run again")
        return ports

    def _complete(self, task: Task, ports: Ports, report: NodeReport, lane: str) -> None:
        """Hands a result to those who wait for it, in this run and, for equal nodes, in others."""
        self._tell(task, report)
        with self._lock:
            followers = self._agenda.take_followers(task)
        shared = NodeReport("cached", "shared", report.seconds)
        copies = [{name: self._codec.copy(value) for name, value in ports.items()} for _ in followers]
        for follower in followers:
            self._tell(follower, shared)
        with self._lock:
            task.ports = ports
            self._agenda.end(task, State.DONE, report)
            for follower, copied in zip(followers, copies, strict=True):
                follower.ports = copied
                self._agenda.end(follower, State.DONE, shared)
            self._announce(lane)
        self._finish_if_over(task.run, *(follower.run for follower in followers))

    def _stop(self, task: Task, seconds: float, lane: str) -> None:
        """Ends a node whose run was cancelled; those who followed it from other runs go on with another leader."""
        with self._lock:
            followers = self._agenda.take_followers(task)
            self._agenda.end(task, State.CANCELLED, NodeReport("cancelled", None, seconds))
            self._agenda.requeue(followers)
            self._announce(lane)
        self._finish_if_over(task.run, *(follower.run for follower in followers))

    def _fail(self, task: Task, error: BaseException, seconds: float, lane: str) -> None:
        """Ends a node that raised, and those who followed it: equal nodes fail alike."""
        with self._lock:
            failed = [task, *self._agenda.take_followers(task)]
        reports: list[NodeReport] = []
        for one in failed:
            place = one.node.place
            failure = NodeFailed(one.id, one.node.cls.__name__, error, str(place) if place.file else None)
            failure.__cause__ = error
            reports.append(NodeReport("failed", None, seconds, failure))
            one.run.emit(NodeErred(*one.where, failure))
        with self._lock:
            for one, report in zip(failed, reports, strict=True):
                self._agenda.end(one, State.FAILED, report)
            self._announce(lane)
        self._finish_if_over(*(one.run for one in failed))

    def _tell(self, task: Task, report: NodeReport) -> None:
        if not task.run.watched:
            return
        if report.status == "cached":
            task.run.emit(NodeReused(*task.where, report.tier or "", report.seconds))
        else:
            task.run.emit(NodeFinished(*task.where, report.seconds))

    def _announce(self, lane: str | None = None) -> None:
        """Wakes a worker for each task that became ready, but for one that this worker takes itself. Needs the lock."""
        for ready in self._agenda.take_newly_ready():
            if ready == lane:
                lane = None
            else:
                self._wake[ready].notify()

    def _finish_if_over(self, *runs: Run) -> None:
        for run in runs:
            if run.live:
                continue  # whoever ends the last node of it looks again
            with self._lock:
                over = run.live == 0 and not run.closing
                run.closing = run.closing or over
                if over:
                    del self._runs[run.id]
            if over:
                run.finish()
