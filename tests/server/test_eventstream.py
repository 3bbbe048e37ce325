"""The event stream format: the same events come out however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentgraph.server.client.eventstream import LARGEST, StreamReader, StreamTooLarge, Told

STREAM = (
    b"retry: 1000\n\n:\n\nid: 1\nevent: queued\ndata: {}\n\n"
    b'id: 2\r\nevent: progress\r\ndata: {"words": "\xc3\xa4"}\r\n\r\n'
    b"data: a\ndata:b\nunknown: x\n\nevent: alone\n\ndata: cut off"
)
EVENTS = [
    Told(""),
    Told("queued", "{}"),
    Told("progress", '{"words": "ä"}'),
    Told("message", "a\nb"),
]


def read(*pieces: bytes) -> list[Told]:
    reader = StreamReader()
    return [event for piece in pieces for event in reader.feed(piece)]


def test_events_are_read_and_what_is_cut_off_is_none() -> None:
    assert read(STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_it_does_not_matter_how_the_bytes_are_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert read(*(STREAM[a:b] for a, b in pairwise(edges))) == EVENTS


def test_the_time_that_the_server_wants_between_connections_is_kept_within_bounds() -> None:
    reader = StreamReader()
    reader.feed(b"retry: 2500\n\n")
    assert reader.retry_seconds == 2.5
    reader.feed(b"retry: 999999999999\nretry: -1\nretry: x\n\n")
    assert reader.retry_seconds == 60.0


def test_an_event_that_has_no_end_is_refused() -> None:
    reader = StreamReader()
    for _ in range(LARGEST // (1 << 20)):
        assert reader.feed(b"x" * (1 << 20)) == []
    with pytest.raises(StreamTooLarge):
        reader.feed(b"x")


def test_many_events_are_not_taken_for_a_large_one() -> None:
    reader = StreamReader()
    piece = b"data: " + b"x" * (1 << 20) + b"\n\n"
    assert sum(len(reader.feed(piece)) for _ in range(LARGEST // (1 << 20) + 2)) == LARGEST // (1 << 20) + 2
