"""Metrics: what is counted, and that it is text which Prometheus reads."""

from __future__ import annotations

import re

from latentgraph.server.api.metrics import Histogram, Metrics
from latentgraph.server.jobs.values import EventKind, NumberedEvent

LINE = re.compile(r'latentgraph_[a-z_]+(\{([a-z]+="([^"\\\n]|\\.)*",?)+\})? -?[0-9.e+-]+(inf)?')


def told(kind: EventKind, at: float, **data: object) -> NumberedEvent:
    return NumberedEvent(1, kind, 1, int(at * 1_000_000), data)


def test_every_line_is_one_that_prometheus_reads() -> None:
    metrics = Metrics()
    metrics.observe_request("GET", '/v1/"x"\\\n', 200, 0.01)
    metrics.observe_events("a", [told(EventKind.NODE_FINISHED, 1, node_type="KSampler", seconds=2.5)])
    text = metrics.text({"jobs": ("Jobs.", {(("state", "queued"),): 3}), "paused": ("Whether.", {(): 0.0})})
    for line in text.splitlines():
        assert line.startswith(("# HELP latentgraph_", "# TYPE latentgraph_")) or LINE.fullmatch(line), line
    names = re.findall(r"# TYPE (\S+)", text)
    assert len(set(names)) == len(names)
    assert text.endswith("\n")


def test_waiting_is_counted_from_when_a_job_could_run() -> None:
    metrics = Metrics()
    metrics.observe_events("a", [told(EventKind.QUEUED, 1), told(EventKind.STARTED, 4), told(EventKind.RETRYING, 10)])
    metrics.observe_events("a", [told(EventKind.STARTED, 10.5), told(EventKind.FINISHED, 11, state="succeeded")])
    assert metrics.queue_wait.sums[()] == 3.5
    assert sum(metrics.queue_wait.counts[()]) == 2
    assert metrics.finished[(("state", "succeeded"),)] == 1


def test_buckets_hold_all_values_up_to_their_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 99.0):
        histogram.observe(value)
    assert histogram.counts[()] == [2, 1, 1]


def test_labels_are_bounded() -> None:
    metrics = Metrics()
    for index in range(3_000):
        metrics.observe_events("a", [told(EventKind.NODE_FINISHED, 1, node_type=f"T{index}", seconds=1)])
    assert len(metrics.node_seconds.counts) <= 1_001


def test_data_of_another_kind_than_expected_costs_nothing() -> None:
    metrics = Metrics()
    metrics.observe_events(
        "a", [told(EventKind.NODE_FINISHED, 1, node_type=3, seconds="x"), told(EventKind.NODE_CACHED, 1)]
    )
    assert metrics.cache_hits[(("tier", ""),)] == 1
