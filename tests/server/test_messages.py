"""What a line may be, on either end of the channel."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentgraph.server.errors import MalformedMessage
from latentgraph.server.jobs.values import EventKind
from latentgraph.server.workers.messages import (
    MAX_LINE_BYTES,
    MAX_PREVIEW_BYTES,
    Beat,
    CancelJob,
    Done,
    EventTold,
    Exit,
    Failure,
    Lines,
    Message,
    NodeReport,
    PreviewMade,
    Ready,
    Refused,
    RunJob,
    read_from_server,
    read_from_worker,
    write_line,
)

JOB = {"job": "a" * 32, "attempt": 2}
FAILURE = Failure(code="node_failed", message="no", node="sample", node_type="KSampler", detail="trace", retry=True)


@pytest.mark.parametrize(
    "message",
    [
        RunJob(**JOB, document="{}", params={"seed": 2**64 - 1, "big": 10**40}, outputs=("image",), output_dir="out"),
        CancelJob(**JOB),
        Exit(),
    ],
)
def test_what_the_server_says_is_read_as_it_was_said(message: Message) -> None:
    assert read_from_server(write_line(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        Ready(device="cuda:0", versions={"torch": "2.9"}),
        Beat(rss_bytes=1 << 40, memory={"weights": 7}),
        EventTold(**JOB, kind=EventKind.PROGRESS, node="sample", data={"step": 1, "total": 20, "seconds_left": 1.5}),
        PreviewMade(**JOB, node="sample", jpeg=bytes(range(256))),
        Done(**JOB, status="succeeded", files={"image": ("a/b.png",)}, nodes={"n": NodeReport(status="ran")}),
        Done(**JOB, status="failed", error=FAILURE, seconds=0.25),
        Refused(**JOB, reason="busy"),
    ],
)
def test_what_a_worker_says_is_read_as_it_was_said(message: Message) -> None:
    assert read_from_worker(write_line(message)) == message


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "EOF"),
        (b"null", "object"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[" * 100_000, "recursion"),
        (b'{"type": "run", "job": "a", "attempt": 1, "document": "{}", "output_dir": "x"}', "'run'"),  # the server's
        (b'{"type": "beat", "pulse": 60}', "pulse"),
        (b'{"type": "beat", "rss_bytes": NaN}', "rss_bytes"),
        (b'{"type": "event", "job": "a", "attempt": 1, "kind": "finished"}', "kind"),  # the store's to tell
        (b'{"type": "event", "job": "a", "attempt": 1, "kind": "progress", "data": {"step": "1"}}', "whole numbers"),
        (b'{"type": "preview", "job": "a", "attempt": 1, "node": "n", "jpeg": "***"}', "jpeg"),
        (b'{"type": "done", "job": "a", "attempt": 1, "status": "splendid"}', "status"),
        (b'{"type": "done", "job": "a", "attempt": "soon", "status": "failed"}', "attempt"),
        (b'{"type": "done", "job": "\\ud800", "attempt": 1, "status": "failed"}', "Invalid JSON"),
    ],
)
def test_what_is_no_message_is_refused_and_says_why(line: bytes, reason: str) -> None:
    with pytest.raises(MalformedMessage, match=reason):
        read_from_worker(line)


def test_a_preview_has_a_bound() -> None:
    with pytest.raises(ValueError, match="jpeg"):
        PreviewMade(**JOB, node="n", jpeg=b"x" * (MAX_PREVIEW_BYTES + 1))


def test_a_line_has_a_bound_where_it_is_written() -> None:
    with pytest.raises(MalformedMessage, match="at most"):
        write_line(Done(**JOB, status="succeeded", values={"text": "x" * MAX_LINE_BYTES}))


def test_what_no_text_can_hold_is_mended() -> None:
    data = {"name": "caf\udce9.png", "far": float("inf"), "deep": [float("nan")]}
    told = read_from_worker(write_line(EventTold(**JOB, kind=EventKind.SAVED, data=data)))
    assert isinstance(told, EventTold)
    assert told.data == {"name": "caf?.png", "far": None, "deep": [None]}


def test_what_is_nested_without_end_is_not_sent() -> None:
    loop: list[object] = []
    loop.append(loop)
    deep: object = 0
    for _ in range(10_000):
        deep = [deep]
    for value in (loop, deep):
        with pytest.raises(MalformedMessage):
            write_line(EventTold(**JOB, kind=EventKind.SAVED, data={"value": value}))


@given(
    lines=st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), max_size=10),
    cuts=st.lists(st.integers(0, 500), max_size=10),
)
def test_lines_are_the_same_however_they_are_cut(lines: list[bytes], cuts: list[int]) -> None:
    text = b"".join(line + b"\n" for line in lines)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    reader = Lines()
    read = [line for begin, end in itertools.pairwise(places) for line in reader.feed(text[begin:end])]
    assert read == lines


def test_a_line_without_an_end_is_refused_once_it_is_too_long() -> None:
    lines = Lines(limit=100)
    assert lines.feed(b"x" * 100) == []
    with pytest.raises(MalformedMessage, match="100"):
        lines.feed(b"x")


def test_a_line_that_comes_whole_has_the_same_bound() -> None:
    with pytest.raises(MalformedMessage, match="100"):
        Lines(limit=100).feed(b"x" * 101 + b"\n")
