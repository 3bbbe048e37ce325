"""Metrics: what the server counted, as Prometheus reads it. Counting costs next to nothing and never fails a request.

Events of jobs come through `observe_events`, requests through `observe_request`; what stands at the moment is asked for when it
is read. No label holds the id of a job or a token, and the number of labels is bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from ..clock import SECOND_US
from ..jobs.values import EventKind, NumberedEvent

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LATENCIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_WAITS = (0.01, 0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0)
_NODE_TIMES = (0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0)
_MAX_LABELS = 1_000
_MAX_WAITING = 50_000

Labels = tuple[tuple[str, str], ...]


class Histogram:
    """How often values fell below each of some bounds, by labels."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts: dict[Labels, list[int]] = {}
        self.sums: dict[Labels, float] = {}

    def observe(self, value: float, labels: Labels = ()) -> None:
        """Counts one value."""
        if labels not in self.counts and len(self.counts) >= _MAX_LABELS:
            labels = tuple((name, "other") for name, _ in labels)
        counts = self.counts.setdefault(labels, [0] * (len(self.bounds) + 1))
        counts[bisect_left(self.bounds, value)] += 1
        self.sums[labels] = self.sums.get(labels, 0.0) + value


class Metrics:
    """What is counted from the start of the server on."""

    def __init__(self) -> None:
        self.requests: Counter[Labels] = Counter()
        self.latency = Histogram(_LATENCIES)
        self.finished: Counter[Labels] = Counter()
        self.cache_hits: Counter[Labels] = Counter()
        self.queue_wait = Histogram(_WAITS)
        self.node_seconds = Histogram(_NODE_TIMES)
        self._waiting: OrderedDict[str, int] = OrderedDict()

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts an answered request; `route` is the path as it was declared."""
        self.requests[("method", method), ("route", route), ("status", str(status))] += 1
        self.latency.observe(seconds, (("route", route),))

    def observe_events(self, job: str, events: Iterable[NumberedEvent]) -> None:
        """Counts what happened to a job."""
        for event in events:
            match event.kind:
                case EventKind.QUEUED | EventKind.RETRYING | EventKind.PUT_BACK | EventKind.RESTARTED:
                    self._waiting[job] = event.at_us
                    if len(self._waiting) > _MAX_WAITING:
                        self._waiting.popitem(last=False)
                case EventKind.STARTED:
                    since = self._waiting.pop(job, None)
                    if since is not None:
                        self.queue_wait.observe(max(0, event.at_us - since) / SECOND_US)
                case EventKind.NODE_FINISHED:
                    self.node_seconds.observe(_seconds(event.data), (("type", _text(event.data, "node_type")),))
                case EventKind.NODE_CACHED:
                    self.cache_hits[(("tier", _text(event.data, "tier")),)] += 1
                case EventKind.FINISHED:
                    self._waiting.pop(job, None)
                    self.finished[(("state", _text(event.data, "state")),)] += 1
                case _:
                    pass

    def text(self, gauges: Mapping[str, tuple[str, Mapping[Labels, float]]]) -> str:
        """Returns everything in Prometheus' text format. gauges: what stands now, by name: words, and values by labels."""
        lines: list[str] = []
        for name, (words, values) in gauges.items():
            _write(lines, name, "gauge", words, values)
        _write(lines, "http_requests_total", "counter", "Requests answered.", self.requests)
        _write(lines, "jobs_finished_total", "counter", "Jobs that ended since the start, by state.", self.finished)
        _write(lines, "cache_hits_total", "counter", "Nodes that were served from a cache, by tier.", self.cache_hits)
        _write_histogram(lines, "http_request_seconds", "How long requests took.", self.latency)
        _write_histogram(lines, "queue_wait_seconds", "How long jobs waited before an attempt.", self.queue_wait)
        _write_histogram(lines, "node_seconds", "How long nodes took to compute, by type.", self.node_seconds)
        return "\n".join(lines) + "\n"


def _write(lines: list[str], name: str, kind: str, words: str, values: Mapping[Labels, float]) -> None:
    lines += [f"# HELP latentgraph_{name} {words}", f"# TYPE latentgraph_{name} {kind}"]
    lines += [f"latentgraph_{name}{_labels(labels)} {value:g}" for labels, value in sorted(values.items())]


def _write_histogram(lines: list[str], name: str, words: str, histogram: Histogram) -> None:
    lines += [f"# HELP latentgraph_{name} {words}", f"# TYPE latentgraph_{name} histogram"]
    for labels, counts in sorted(histogram.counts.items()):
        total = 0
        for bound, count in zip((*histogram.bounds, float("inf")), counts, strict=True):
            total += count
            le = "+Inf" if bound == float("inf") else f"{bound:g}"
            lines.append(f"latentgraph_{name}_bucket{_labels((*labels, ('le', le)))} {total}")
        lines.append(f"latentgraph_{name}_sum{_labels(labels)} {histogram.sums[labels]:.9g}")
        lines.append(f"latentgraph_{name}_count{_labels(labels)} {total}")


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _text(data: Mapping[str, object], name: str) -> str:
    value = data.get(name)
    return value[:100] if isinstance(value, str) else ""


def _seconds(data: Mapping[str, object]) -> float:
    value = data.get("seconds")
    return float(value) if isinstance(value, int | float) else 0.0
