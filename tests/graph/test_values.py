"""The plain codec: what it takes on itself, what it hands on, and what it refuses to read."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import pytest

from latentgraph.graph import Packed, PlainCodec

from .fakes import CODEC, Handle, Number, plain


class Size(NamedTuple):
    """A value class that happens to be a tuple."""

    width: int


class Level(IntEnum):
    """A value class that happens to be a number."""

    LOW = 1


@pytest.mark.parametrize("value", [Size(3), Level.LOW, Handle(), [Handle()], {"a": Size(1)}, {1: "a"}, (Level.LOW,)])
def test_what_would_not_come_back_as_it_was_is_not_written_down(value: Any) -> None:
    assert PlainCodec().pack(value) is None
    assert CODEC.pack(value) is None


def test_what_it_does_not_know_it_hands_to_the_other_codec() -> None:
    packed = CODEC.pack({"a": [Number(1), Number(2)], "b": (Number(3),)})
    assert packed is not None
    assert sorted(packed.buffers) == ["0/0/value", "0/1/value", "1/0/value"]
    back = CODEC.unpack(packed)
    assert (plain(back["a"]), type(back["b"]), plain(back["b"])) == ([1.0, 2.0], tuple, [3.0])


def test_more_than_ten_items_keep_their_own_buffers() -> None:
    packed = CODEC.pack([Number(index) for index in range(25)])
    assert packed is not None
    assert plain(CODEC.unpack(packed)) == [float(index) for index in range(25)]


@pytest.mark.parametrize("data", [None, {}, {"plain": 1, "list": []}, {"pickle": "x"}, {"other": "number"}])
def test_what_something_else_wrote_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="a cached value is written"):
        PlainCodec().unpack(Packed(data))


def test_copies_are_independent_at_every_depth() -> None:
    value = {"a": [Number(1)], "b": ([2],)}
    copy = CODEC.copy(value)
    copy["a"][0].value = 5
    copy["b"][0].append(3)
    assert (value["a"][0].value, value["b"]) == (1, ([2],))  # type: ignore[index, union-attr]


def test_bytes_are_counted_through_lists_and_maps() -> None:
    assert CODEC.nbytes(Number(1)) == 8
    assert CODEC.nbytes([Number(1)] * 3) == 64 + 24
    assert CODEC.nbytes({"a": (Number(1),)}) == 64 + 64 + 8
    assert CODEC.nbytes("x" * 1000) == 1050
    assert PlainCodec().nbytes(Handle()) > 0
