"""The scheduler: what runs when, what runs once, what a failure or a cancellation takes along, and what is kept in memory.

Nodes wait at gates that the test opens, so nothing depends on how fast the machine is.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latentgraph.graph import (
    DiskCache,
    Event,
    Fingerprints,
    LatentGraphError,
    MemoryCache,
    NoCache,
    NodeErred,
    NodeFailed,
    NodeFinished,
    NodeProgress,
    NodeReused,
    NodeSaved,
    NodeStarted,
    Run,
    RunCancelled,
    RunFinished,
    RunStarted,
    Scheduler,
    TieredCache,
    cache_keys,
    make_plan,
)
from latentgraph.graph.run import State

from .fakes import (
    CODEC,
    PATIENCE_SECONDS,
    Bench,
    Number,
    graph_of,
    outputs_of,
    plan_of,
    run_all,
    scheduler_of,
)

BRANCHES = """
nodes:
  left: {type: Block, gate: left}
  right: {type: Block, gate: right, a: $zero}
  zero: {type: Constant, value: 0}
outputs: {left: $left, right: $right}
"""


def came(bench: Bench, name: str) -> None:
    assert bench.gate(name).came.wait(PATIENCE_SECONDS), f"nobody came to the gate {name!r}"


def test_independent_nodes_run_at_the_same_time() -> None:
    bench = Bench()
    with scheduler_of(bench=bench) as scheduler:
        run = scheduler.start(plan_of(graph_of(BRANCHES)))
        came(bench, "left")
        came(bench, "right")  # while the other still waits
        bench.gate("left").may_go.set()
        bench.gate("right").may_go.set()
        assert run.wait(PATIENCE_SECONDS).status == "succeeded"


def test_a_lane_runs_no_more_nodes_at_once_than_it_has_threads() -> None:
    bench = Bench()
    nodes = """
nodes:
  a: {type: BlockOnDevice, gate: a}
  b: {type: BlockOnDevice, gate: b}
  c: {type: Block, gate: c}
outputs: {a: $a, b: $b, c: $c}
"""
    with scheduler_of(bench=bench) as scheduler:
        run = scheduler.start(plan_of(graph_of(nodes)))
        came(bench, "c")
        came(bench, "b")  # the one that became ready last
        assert not bench.gate("a").came.is_set()
        for gate in "abc":
            bench.gate(gate).may_go.set()
        assert run.wait(PATIENCE_SECONDS).status == "succeeded"


def test_several_runs_share_the_lanes() -> None:
    bench = Bench()
    with scheduler_of(bench=bench) as scheduler:
        runs = [
            scheduler.start(plan_of(graph_of(f"nodes: {{n: {{type: Block, gate: {gate}}}}}\noutputs: {{x: $n}}")))
            for gate in ("one", "two")
        ]
        came(bench, "one")
        came(bench, "two")
        for gate in ("one", "two"):
            bench.gate(gate).may_go.set()
        assert [run.wait(PATIENCE_SECONDS).status for run in runs] == ["succeeded", "succeeded"]


TWINS = """
nodes:
  {name}: {{type: Block, gate: shared}}
  after: {{type: Add, a: ${name}, plus: {plus}}}
outputs: {{x: $after}}
"""


def follow(scheduler: Scheduler, bench: Bench, *, watch: Any = None) -> tuple[Run, Run]:
    """Starts two runs with an equal node; the first computes it and the second follows."""
    leader = scheduler.start(plan_of(graph_of(TWINS.format(name="first", plus=1))))
    came(bench, "shared")
    follower = scheduler.start(plan_of(graph_of(TWINS.format(name="second", plus=2))), on_event=watch)
    assert follower.live == 2
    return leader, follower


def until(what: Callable[[], bool]) -> None:
    """Waits for what a worker thread will do soon."""
    for _ in range(int(PATIENCE_SECONDS * 1000)):
        if what():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it never happened")


def until_following(run: Run) -> None:
    until(lambda: any(task.state is State.FOLLOWING for task in run.tasks.values()))


def test_equal_nodes_of_two_runs_in_flight_compute_once() -> None:
    bench, events = Bench(), list[Event]()
    with scheduler_of(bench=bench) as scheduler:
        leader, follower = follow(scheduler, bench, watch=events.append)
        until_following(follower)
        bench.gate("shared").may_go.set()
        first, second = leader.wait(PATIENCE_SECONDS), follower.wait(PATIENCE_SECONDS)
    assert (outputs_of(first), outputs_of(second)) == ({"x": 1.0}, {"x": 2.0})
    assert (first.nodes["first"].status, second.nodes["second"].tier) == ("ran", "shared")
    assert bench.ran.count("first") + bench.ran.count("second") == 1
    assert [type(event).__name__ for event in events] == [
        "RunStarted",
        "NodeReused",
        "NodeStarted",
        "NodeFinished",
        "RunFinished",
    ]


def test_a_follower_takes_over_when_the_run_of_the_leader_is_cancelled() -> None:
    bench = Bench()
    with scheduler_of(bench=bench) as scheduler:
        leader, follower = follow(scheduler, bench)
        until_following(follower)
        scheduler.cancel(leader)
        bench.gate("shared").may_go.set()
        assert leader.wait(PATIENCE_SECONDS).status == "cancelled"
        assert outputs_of(follower.wait(PATIENCE_SECONDS)) == {"x": 2.0}
    assert bench.ran.count("second") == 1


def test_a_follower_whose_own_run_is_cancelled_ends_at_once() -> None:
    bench = Bench()
    with scheduler_of(bench=bench) as scheduler:
        leader, follower = follow(scheduler, bench)
        until_following(follower)
        scheduler.cancel(follower)
        assert follower.wait(PATIENCE_SECONDS).status == "cancelled"
        bench.gate("shared").may_go.set()
        assert leader.wait(PATIENCE_SECONDS).status == "succeeded"


def test_a_follower_fails_with_its_leader_under_its_own_name() -> None:
    bench = Bench()
    nodes = "nodes: {{{0}: {{type: Block, gate: g}}, {1}: {{type: Fail, a: ${0}}}}}\noutputs: {{x: ${1}}}"
    with scheduler_of(bench=bench) as scheduler:
        runs = [scheduler.start(plan_of(graph_of(nodes.format(f"wait{i}", f"fail{i}")))) for i in (1, 2)]
        came(bench, "g")
        bench.gate("g").may_go.set()
        for index, run in enumerate(runs, 1):
            with pytest.raises(NodeFailed, match=rf"node 'fail{index}' \(Fail\) failed: ValueError: no"):
                run.wait(PATIENCE_SECONDS).raise_failure()


def test_a_failure_names_its_node_blocks_what_needs_it_and_lets_other_branches_finish() -> None:
    nodes = """
nodes:
  bad: {type: Fail, message: out of paint}
  below: {type: Add, a: $bad}
  further: {type: Add, a: $below, b: $good}
  good: {type: Constant, value: 3}
  other: {type: Add, a: $good}
outputs: {bad: $further, good: $other}
"""
    result = run_all(graph_of(nodes))
    assert result.status == "failed"
    assert {id: report.status for id, report in result.nodes.items()} == {
        "bad": "failed",
        "below": "blocked",
        "further": "blocked",
        "good": "ran",
        "other": "ran",
    }
    assert outputs_of(result) == {"good": 3.0}
    error = result.failures["bad"]
    assert isinstance(error, NodeFailed)
    assert (error.node, error.node_type, str(error)) == (
        "bad",
        "Fail",
        "node 'bad' (Fail) failed: ValueError: out of paint",
    )
    assert isinstance(error.__cause__, ValueError)


def test_a_failure_says_where_the_node_is_in_its_file() -> None:
    nodes = "nodes:\n  good: {type: Constant}\n  bad: {type: Fail}\noutputs: {x: $bad}\n"
    result = run_all(graph_of(nodes, file=Path("w.yaml")))
    assert str(result.failures["bad"]) == "w.yaml:4:3: node 'bad' (Fail) failed: ValueError: no"


def test_a_node_that_is_blocked_twice_lets_go_of_what_it_read_once() -> None:
    """`late` needs the failed node both itself and through `middle`; `reader` still needs `shared` afterwards."""
    bench = Bench()
    nodes = """
nodes:
  shared: {type: Constant, value: 5}
  fail: {type: Fail, a: $gate}
  gate: {type: Block, gate: fail}
  late: {type: Sum, items: [$fail, $middle, $shared]}
  middle: {type: Add, a: $fail}
  slow: {type: Block, gate: slow}
  reader: {type: Add, a: $shared, b: $slow}
outputs: {late: $late, reader: $reader}
"""
    with scheduler_of(bench=bench) as scheduler:
        run = scheduler.start(plan_of(graph_of(nodes)))
        came(bench, "fail")
        came(bench, "slow")
        bench.gate("fail").may_go.set()
        until(lambda: run.tasks["late"].state is State.BLOCKED)
        bench.gate("slow").may_go.set()
        assert outputs_of(run.wait(PATIENCE_SECONDS)) == {"reader": 5.0}


def test_cancelling_stops_a_node_at_its_next_step_and_starts_nothing() -> None:
    bench = Bench()
    nodes = "nodes: {wait: {type: Block, gate: g}, next: {type: Add, a: $wait}}\noutputs: {x: $next}"
    with scheduler_of(bench=bench) as scheduler:
        run = scheduler.start(plan_of(graph_of(nodes)))
        came(bench, "g")
        scheduler.cancel(run)
        scheduler.cancel(run)  # safe to repeat
        bench.gate("g").may_go.set()
        result = run.wait(PATIENCE_SECONDS)
        assert {id: report.status for id, report in result.nodes.items()} == {"wait": "cancelled", "next": "cancelled"}
        assert bench.ran == ["wait"]
        with pytest.raises(RunCancelled):
            result.raise_failure()
        scheduler.cancel(run)  # and when it is over


class Slow(NoCache):
    """A cache that says it has everything, lets one wait for it, and then has nothing."""

    def __init__(self) -> None:
        self.came, self.may_go = threading.Event(), threading.Event()

    def tier(self, key: str) -> str:
        return "slow"

    def get(self, key: str) -> None:
        self.came.set()
        assert self.may_go.wait(PATIENCE_SECONDS)


def test_a_run_that_is_cancelled_while_the_cache_is_read_computes_nothing_when_that_misses() -> None:
    cache, bench = Slow(), Bench()
    graph = graph_of("nodes: {a: {type: Constant}, b: {type: Add, a: $a}}\noutputs: {x: $b}")
    with scheduler_of(cache, bench) as scheduler:
        run = scheduler.start(plan_of(graph, cache))
        assert cache.came.wait(PATIENCE_SECONDS)
        scheduler.cancel(run)
        cache.may_go.set()
        result = run.wait(PATIENCE_SECONDS)
    assert {id: report.status for id, report in result.nodes.items()} == {"a": "skipped", "b": "cancelled"}
    assert bench.ran == []


def test_cancelling_one_run_leaves_others_alone() -> None:
    bench = Bench()
    with scheduler_of(bench=bench) as scheduler:
        one, two = (
            scheduler.start(plan_of(graph_of(f"nodes: {{n: {{type: Block, gate: {gate}}}}}\noutputs: {{x: $n}}")))
            for gate in ("one", "two")
        )
        came(bench, "one")
        came(bench, "two")
        scheduler.cancel(one)
        for gate in ("one", "two"):
            bench.gate(gate).may_go.set()
        assert (one.wait(PATIENCE_SECONDS).status, two.wait(PATIENCE_SECONDS).status) == ("cancelled", "succeeded")


def test_a_watcher_may_cancel() -> None:
    nodes = "nodes: {a: {type: Constant}, b: {type: Add, a: $a}}\noutputs: {x: $b}"
    with scheduler_of() as scheduler:
        runs: list[Run] = []
        started = threading.Event()

        def watch(event: Event) -> None:
            assert started.wait(PATIENCE_SECONDS)
            if isinstance(event, NodeFinished):
                scheduler.cancel(runs[0])

        runs.append(scheduler.start(plan_of(graph_of(nodes)), on_event=watch))
        started.set()
        result = runs[0].wait(PATIENCE_SECONDS)
    assert (result.status, result.nodes["a"].status, result.nodes["b"].status) == ("cancelled", "ran", "cancelled")


class Watching(NoCache):
    """A cache that keeps nothing but weak references to what it is given."""

    def __init__(self, alive: list[weakref.ref[Number]]) -> None:
        self.alive = alive

    def put(self, key: str, ports: Any, seconds: float) -> None:
        self.alive.extend(weakref.ref(value) for value in ports.values())


def test_a_value_is_released_when_its_last_reader_has_it() -> None:
    bench = Bench()
    alive: list[weakref.ref[Number]] = []
    nodes = """
nodes:
  first: {type: Constant, value: 2}
  second: {type: Add, a: $first}
  third: {type: Block, gate: g, a: $second}
outputs: {x: $third}
"""
    with scheduler_of(Watching(alive), bench) as scheduler:
        run = scheduler.start(plan_of(graph_of(nodes)))
        came(bench, "g")
        gc.collect()
        assert [ref() is None for ref in alive] == [True, False]  # `third` holds what `second` gave
        bench.gate("g").may_go.set()
        result = run.wait(PATIENCE_SECONDS)
        gc.collect()
        assert [ref() is None for ref in alive] == [True, True, False]
        assert outputs_of(result) == {"x": 2.0}


def test_a_failure_holds_on_to_no_value() -> None:
    nodes = "nodes: {a: {type: Constant}, f: {type: Fail, a: $a}}\noutputs: {x: $f}"
    alive: list[weakref.ref[Number]] = []
    result = run_all(graph_of(nodes), Watching(alive))
    gc.collect()
    assert result.failures
    assert [ref() for ref in alive] == [None]


def test_what_several_read_is_copied_so_that_none_can_change_it_for_the_others() -> None:
    nodes = """
nodes:
  one: {type: Constant, value: 1}
  bad: {type: Mutate, a: $one}
  worse: {type: Mutate, a: $one, items: [2]}
  good: {type: Add, a: $one}
outputs: {one: $one, bad: $bad, worse: $worse, good: $good}
"""
    graph = graph_of(nodes)
    for _ in range(2):  # the literals of the graph are not changed either
        assert outputs_of(run_all(graph)) == {"one": 1.0, "bad": 2.0, "worse": 3.0, "good": 1.0}


def test_a_node_that_changes_its_inputs_can_not_change_what_is_cached() -> None:
    nodes = "nodes: {one: {type: Constant}, bad: {type: Mutate, a: $one}}\noutputs: {x: $bad}"
    cache = MemoryCache(CODEC, 1 << 20)
    run_all(graph_of(nodes), cache)
    assert outputs_of(run_all(graph_of("nodes: {one: {type: Constant}}\noutputs: {x: $one}"), cache)) == {"x": 1.0}


def test_an_effect_always_runs_and_is_never_cached() -> None:
    nodes = "nodes: {a: {type: Constant}, s: {type: Save, a: $a}}"
    cache, bench = MemoryCache(CODEC, 1 << 20), Bench()
    first = run_all(graph_of(nodes), cache, bench)
    second = run_all(graph_of(nodes), cache, bench)
    assert bench.saved == [1.0, 1.0]
    assert (first.nodes["s"].status, second.nodes["s"].status, second.nodes["a"].status) == ("ran", "ran", "cached")
    assert first.nodes["s"].files == (Path("output/it"),)


def test_what_is_cached_hides_the_nodes_above_it() -> None:
    nodes = "nodes: {l: {type: Load}, u: {type: Use, handle: $l}, a: {type: Add, a: $u}}\noutputs: {x: $a}"
    cache, bench = MemoryCache(CODEC, 1 << 20), Bench()
    run_all(graph_of(nodes), cache, bench)
    result = run_all(graph_of(nodes), cache, bench)
    assert {id: report.status for id, report in result.nodes.items()} == {"l": "skipped", "u": "skipped", "a": "cached"}
    assert bench.ran == ["l", "u", "a"]


def test_a_node_that_is_not_worth_keeping_runs_again_where_it_is_needed() -> None:
    nodes = "nodes: {{l: {{type: Load}}, u: {{type: Use, handle: $l, value: {}}}}}\noutputs: {{x: $u}}"
    cache, bench = MemoryCache(CODEC, 1 << 20), Bench()
    for value in (1, 2):
        run_all(graph_of(nodes.format(value)), cache, bench)
    assert bench.ran == ["l", "u", "l", "u"]


def test_a_damaged_entry_is_computed_again_from_what_the_cache_still_has(tmp_path: Path) -> None:
    nodes = """
nodes:
  load: {type: Load}
  a: {type: Use, handle: $load}
  b: {type: Add, a: $a, plus: 1}
  c: {type: Add, a: $b, plus: 1}
outputs: {x: $c}
"""
    graph, bench = graph_of(nodes), Bench()
    run_all(graph, DiskCache(tmp_path, CODEC, 1 << 20), bench)
    cache = DiskCache(tmp_path, CODEC, 1 << 20)
    plan = plan_of(graph, cache)
    assert dict(plan.reuse) == {"c": "disk"}
    for broken in ("c", "b"):  # between the plan and the run
        cache.path(plan.keys[broken]).write_bytes(b"broken")
    with scheduler_of(cache, bench) as scheduler:
        result = scheduler.start(plan).wait(PATIENCE_SECONDS)
    assert outputs_of(result) == {"x": 3.0}
    assert {id: report.status for id, report in result.nodes.items()} == {
        "load": "skipped",
        "a": "cached",
        "b": "ran",
        "c": "ran",
    }
    assert bench.ran == ["load", "a", "b", "c", "b", "c"]
    assert dict(plan_of(graph, cache).reuse) == {"c": "disk"}


class Broken:
    """A cache that fails at everything but saying what it has."""

    def get(self, key: str) -> None:
        raise RuntimeError("the disk fell out")

    def tier(self, key: str) -> str:
        return "broken"

    def put(self, key: str, ports: Any, seconds: float) -> None:
        raise RuntimeError("the disk fell out")


def test_a_fault_of_the_cache_is_a_miss() -> None:
    nodes = "nodes: {a: {type: Constant, value: 4}, b: {type: Add, a: $a}}\noutputs: {x: $b}"
    result = run_all(graph_of(nodes), Broken())
    assert outputs_of(result) == {"x": 4.0}
    assert [report.status for report in result.nodes.values()] == ["ran", "ran"]


def test_events_come_in_order_and_end_with_the_run() -> None:
    nodes = "nodes: {a: {type: Block, gate: g}, s: {type: Save, a: $a}}"
    bench, events = Bench(), list[Event]()
    bench.gate("g").may_go.set()
    cache = MemoryCache(CODEC, 1 << 20)
    result = run_all(graph_of(nodes), cache, bench, events=events)
    kinds = [RunStarted, NodeStarted, NodeProgress, NodeFinished, NodeStarted, NodeSaved, NodeFinished, RunFinished]
    assert [type(event) for event in events] == kinds
    assert [event.node for event in events] == ["", "a", "a", "a", "s", "s", "s", ""]
    assert {event.run for event in events} == {result.run}
    assert events[0] == RunStarted(result.run, nodes=2)
    progress = events[2]
    assert isinstance(progress, NodeProgress)
    assert (progress.step, progress.total, progress.node_type) == (1, 2, "Block")
    assert progress.seconds_left is not None
    again = list[Event]()
    run_all(graph_of(nodes), cache, bench, events=again)
    assert isinstance(again[1], NodeReused)
    assert (again[1].node, again[1].tier) == ("a", "memory")


def test_a_failure_is_told_before_the_run_is_over() -> None:
    events = list[Event]()
    run_all(graph_of("nodes: {f: {type: Fail}}\noutputs: {x: $f}"), events=events)
    assert [type(event) for event in events] == [RunStarted, NodeStarted, NodeErred, RunFinished]


def test_a_watcher_that_raises_harms_nothing() -> None:
    def watch(event: Event) -> None:
        raise RuntimeError("I can't look")

    with scheduler_of() as scheduler:
        run = scheduler.start(plan_of(graph_of("nodes: {a: {type: Constant}}\noutputs: {x: $a}")), on_event=watch)
        assert run.wait(PATIENCE_SECONDS).status == "succeeded"


def test_an_interrupt_of_the_waiting_thread_cancels_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    calls = 0
    wait = Run.wait

    def interrupted(self: Run, timeout_seconds: float | None = None) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            came(bench, "g")
            bench.gate("g").may_go.set()
            raise KeyboardInterrupt
        return wait(self, timeout_seconds)

    monkeypatch.setattr(Run, "wait", interrupted)
    with scheduler_of(bench=bench) as scheduler, pytest.raises(KeyboardInterrupt):
        scheduler.run(plan_of(graph_of("nodes: {a: {type: Block, gate: g}}\noutputs: {x: $a}")))
    assert calls == 2


def test_closing_cancels_what_runs_and_wakes_who_waits() -> None:
    bench = Bench()
    with scheduler_of(bench=bench) as scheduler:
        run = scheduler.start(
            plan_of(graph_of("nodes: {a: {type: Block, gate: g}, b: {type: Add, a: $a}}\noutputs: {x: $b}"))
        )
        came(bench, "g")
        closing = threading.Thread(target=scheduler.close)
        closing.start()
        until(lambda: run.cancelled)
        bench.gate("g").may_go.set()
        assert run.wait(PATIENCE_SECONDS).status == "cancelled"
        closing.join(PATIENCE_SECONDS)
        assert not closing.is_alive()
        scheduler.close()  # safe to repeat
        with pytest.raises(LatentGraphError, match="the scheduler is closed; make a new one"):
            scheduler.start(plan_of(graph_of("nodes: {a: {type: Constant}}\noutputs: {x: $a}")))


def test_waiting_says_when_it_took_too_long() -> None:
    bench = Bench()
    with scheduler_of(bench=bench) as scheduler:
        run = scheduler.start(plan_of(graph_of("nodes: {a: {type: Block, gate: g}}\noutputs: {x: $a}")))
        with pytest.raises(TimeoutError, match="is not over after 0 s"):
            run.wait(0)


def test_a_run_without_targets_is_over_at_once() -> None:
    graph = graph_of("nodes: {a: {type: Constant}}\noutputs: {x: $a}")
    plan = make_plan(graph, cache_keys(graph, Fingerprints()), NoCache().tier, targets=())
    with scheduler_of() as scheduler:
        assert scheduler.run(plan).status == "succeeded"


SWITCH = """
params: {{mode: {{type: string, default: "auto"}}}}
nodes:
  sign: {{type: Constant, value: {value}}}
  name: {{type: Name, a: $sign}}
  yes: {{type: OnDevice}}
  no: {{type: Fail, a: $base}}
  base: {{type: Constant, value: 10}}
  pick: {{type: Switch, select: $name, cases: {{positive: $yes, negative: $no}}}}
  last: {{type: Add, a: $pick, plus: 1}}
outputs: {{x: $last}}
"""


def test_a_switch_computes_only_the_case_that_is_chosen_at_run_time() -> None:
    """The chosen case runs on another lane, whose workers sleep until they are woken for it."""
    bench = Bench()
    result = run_all(graph_of(SWITCH.format(value=1)), bench=bench)
    assert outputs_of(result) == {"x": 2.0}
    assert result.nodes["no"].status == "skipped"
    assert sorted(bench.ran) == ["last", "name", "sign", "yes"]


def test_a_switch_whose_chosen_case_failed_before_is_blocked_and_the_run_ends() -> None:
    bench = Bench()
    nodes = """
nodes:
  gate: {type: Block, gate: g, a: $minus}
  minus: {type: Constant, value: -1}
  name: {type: Name, a: $gate}
  bad: {type: Fail}
  pick: {type: Switch, select: $name, cases: {positive: $minus, negative: $bad}}
outputs: {x: $pick, bad: $bad}
"""
    with scheduler_of(bench=bench) as scheduler:
        run = scheduler.start(plan_of(graph_of(nodes)))
        came(bench, "g")
        until(lambda: run.tasks["bad"].state is State.FAILED)
        bench.gate("g").may_go.set()
        result = run.wait(PATIENCE_SECONDS)
    assert {id: result.nodes[id].status for id in ("bad", "pick", "name")} == {
        "bad": "failed",
        "pick": "blocked",
        "name": "ran",
    }


def test_a_switch_may_ask_for_a_value_that_was_let_go() -> None:
    """`early` was computed for `reader` and released; the Switch asks for it afterwards."""
    bench = Bench()
    nodes = """
nodes:
  early: {type: Constant, value: 7}
  reader: {type: Block, gate: g, a: $early}
  name: {type: Name, a: $reader}
  pick: {type: Switch, select: $name, cases: {positive: $early, negative: $reader}}
outputs: {x: $pick}
"""
    bench.gate("g").may_go.set()
    for cache in (None, MemoryCache(CODEC, 1 << 20)):
        result = run_all(graph_of(nodes), cache, bench)
        assert outputs_of(result) == {"x": 7.0}


def test_a_switch_that_was_let_go_can_be_asked_again() -> None:
    nodes = """
nodes:
  one: {type: Constant, value: 1}
  name: {type: Name, a: $one}
  inner: {type: Switch, select: $name, cases: {positive: $one}}
  reader: {type: Add, a: $inner}
  late: {type: Name, a: $reader}
  outer: {type: Switch, select: $late, cases: {positive: $inner}}
outputs: {x: $outer}
"""
    assert outputs_of(run_all(graph_of(nodes))) == {"x": 1.0}


def test_a_switch_fails_with_the_cases_that_it_has() -> None:
    nodes = """
nodes:
  one: {type: Constant, value: 1}
  name: {type: Name, a: $one}
  pick: {type: Switch, select: $name, cases: {left: $one, right: $one}}
outputs: {x: $pick}
"""
    with pytest.raises(NodeFailed, match="'select' is 'positive'; expected one of left, right"):
        run_all(graph_of(nodes)).raise_failure()


def test_lists_of_links_are_flattened_where_an_output_is_a_list() -> None:
    nodes = """
nodes:
  many: {type: Count, below: 4}
  one: {type: Constant, value: 10}
  all: {type: Sum, items: [$one, $many, $one]}
  just: {type: Sum, items: $many}
  none: {type: Sum, items: []}
outputs: {all: $all, just: $just, none: $none, many: $many}
"""
    assert outputs_of(run_all(graph_of(nodes))) == {"all": 26.0, "just": 6.0, "none": 0.0, "many": [0.0, 1.0, 2.0, 3.0]}


def test_a_literal_that_comes_by_a_link_is_checked_when_it_is_known() -> None:
    nodes = """
nodes:
  big: {type: Constant, value: 1000000}
  plain: {type: Read, a: $big}
  add: {type: Add, a: $big, plus: $plain}
outputs: {x: $add}
"""
    words = "input 'plus' was given 1000000.0 by its link; expected a number from 0 to 100000"
    with pytest.raises(NodeFailed, match=words):
        run_all(graph_of(nodes)).raise_failure()


def test_literal_lists_take_links() -> None:
    nodes = """
nodes:
  c: {type: Constant, foreach: {value: [1, 2, 6]}}
  r: {type: Read, foreach: {a: $c}}
  mean: {type: Mean, values: $r}
  two: {type: Mean, values: ["$r", "$r"]}
outputs: {x: $mean, y: $two}
"""
    assert outputs_of(run_all(graph_of(nodes))) == {"x": 3.0, "y": 3.0}


def test_a_file_that_changes_while_it_is_used_fails_the_node_and_is_not_cached(tmp_path: Path) -> None:
    path = tmp_path / "n.txt"
    path.write_text("1")
    nodes = f"nodes: {{f: {{type: FileLength, file: {path}}}}}\noutputs: {{x: $f}}"
    cache, bench = MemoryCache(CODEC, 1 << 20), Bench(before_read=lambda path: path.write_text("2") and None)
    with pytest.raises(NodeFailed, match="changed while the run used it; run again"):
        run_all(graph_of(nodes), cache, bench).raise_failure()
    assert len(cache) == 0


def test_a_file_that_changed_since_the_plan_is_never_kept_under_its_old_key(tmp_path: Path) -> None:
    """Another run, started in between, has looked at the new content; the first one must not take that for its own."""
    path = tmp_path / "n.txt"
    path.write_text("1")
    graph = graph_of(f"nodes: {{f: {{type: FileLength, file: {path}}}}}\noutputs: {{x: $f}}")
    cache, prints = MemoryCache(CODEC, 1 << 20), Fingerprints()
    old = plan_of(graph, cache, prints)
    path.write_text("2")
    new = plan_of(graph, cache, prints)
    with scheduler_of(cache, fingerprints=prints) as scheduler:
        assert scheduler.run(old).status == "failed"
        assert outputs_of(scheduler.run(new)) == {"x": 2.0}
    path.write_text("1")
    assert outputs_of(run_all(graph, cache)) == {"x": 1.0}


def test_tiers_fill_each_other(tmp_path: Path) -> None:
    nodes = "nodes: {a: {type: Constant}, b: {type: Add, a: $a}}\noutputs: {x: $b}"
    disk = DiskCache(tmp_path, CODEC, 1 << 20)
    run_all(graph_of(nodes), TieredCache([MemoryCache(CODEC, 1 << 20), disk]))
    memory = MemoryCache(CODEC, 1 << 20)
    tiers = TieredCache([memory, disk])
    assert run_all(graph_of(nodes), tiers).nodes["b"].tier == "disk"
    assert run_all(graph_of(nodes), tiers).nodes["b"].tier == "memory"


def test_a_resource_that_is_missing_is_named() -> None:
    with Scheduler(MemoryCache(CODEC, 1), CODEC) as scheduler:
        result = scheduler.run(plan_of(graph_of("nodes: {a: {type: Block, gate: g}}\noutputs: {x: $a}")))
    with pytest.raises(NodeFailed, match="node 'a' needs a Bench, and this run provides none"):
        result.raise_failure()
