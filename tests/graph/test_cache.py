"""One contract for every cache, and what is particular to the one in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from latentgraph.graph import Cache, DiskCache, MemoryCache, NoCache, TieredCache

from .fakes import CODEC, Handle, Number, plain

KEY, OTHER = "ab" * 32, "cd" * 32

CACHES: dict[str, Callable[[Path], Cache]] = {
    "memory": lambda folder: MemoryCache(CODEC, 1 << 20),
    "disk": lambda folder: DiskCache(folder, CODEC, 1 << 20),
    "tiered": lambda folder: TieredCache([MemoryCache(CODEC, 1 << 20), DiskCache(folder, CODEC, 1 << 20)]),
    "tiered, too small": lambda folder: TieredCache([MemoryCache(CODEC, 1), DiskCache(folder, CODEC, 1 << 20)]),
}


@pytest.fixture(params=CACHES)
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Cache:
    return CACHES[request.param](tmp_path)


def test_what_was_not_put_is_a_miss(cache: Cache) -> None:
    assert (cache.get(KEY), cache.tier(KEY)) == (None, None)


def test_what_was_put_comes_back_with_its_cost_and_its_tier(cache: Cache) -> None:
    cache.put(KEY, {"number": Number(2.5), "word": "x", "list": [Number(1), None, True]}, 0.25)
    hit = cache.get(KEY)
    assert hit is not None
    assert {name: plain(value) for name, value in hit.ports.items()} == {
        "number": 2.5,
        "word": "x",
        "list": [1.0, None, True],
    }
    assert hit.seconds == 0.25
    assert hit.tier in ("memory", "disk")
    assert cache.tier(KEY) in ("memory", "disk")
    assert cache.get(OTHER) is None


def test_a_result_without_values_is_a_result(cache: Cache) -> None:
    cache.put(KEY, {}, 1.0)
    hit = cache.get(KEY)
    assert hit is not None
    assert dict(hit.ports) == {}


def test_changing_what_was_put_or_handed_out_does_not_change_the_cache(cache: Cache) -> None:
    number, items = Number(1.0), [Number(2.0)]
    cache.put(KEY, {"a": number, "b": items}, 1.0)
    number.value = items[0].value = -1.0
    items.append(number)
    for _ in range(2):
        hit = cache.get(KEY)
        assert hit is not None
        assert {name: plain(value) for name, value in hit.ports.items()} == {"a": 1.0, "b": [2.0]}
        hit.ports["a"].value = -1.0
        hit.ports["b"].clear()


def test_putting_twice_keeps_one(cache: Cache) -> None:
    cache.put(KEY, {"a": Number(1.0)}, 1.0)
    cache.put(KEY, {"a": Number(1.0)}, 1.0)
    hit = cache.get(KEY)
    assert hit is not None
    assert plain(hit.ports["a"]) == 1.0


def test_no_cache_keeps_nothing() -> None:
    cache = NoCache()
    cache.put(KEY, {"a": 1}, 1.0)
    assert (cache.get(KEY), cache.tier(KEY)) == (None, None)


def test_a_handle_stays_in_memory() -> None:
    memory = MemoryCache(CODEC, 1 << 20)
    memory.put(KEY, {"handle": Handle()}, 1.0)
    assert memory.get(KEY) is not None


def key(index: int) -> str:
    return f"{index:064x}"


def test_the_budget_in_bytes_holds() -> None:
    memory = MemoryCache(CODEC, 30)  # a Number counts 8 bytes, an entry 9
    for index in range(10):
        memory.put(key(index), {"a": Number(index)}, 1.0)
        assert memory.used_bytes <= 30
    assert len(memory) == 3
    assert memory.used_bytes == 27


def test_what_is_larger_than_the_budget_is_not_kept_and_drives_nothing_out() -> None:
    memory = MemoryCache(CODEC, 30)
    memory.put(key(0), {"a": Number(0)}, 1.0)
    memory.put(key(1), {"a": [Number(0)] * 5}, 1000.0)
    assert (memory.tier(key(0)), memory.tier(key(1))) == ("memory", None)


def test_what_was_cheap_to_make_per_byte_goes_first() -> None:
    memory = MemoryCache(CODEC, 30)
    for index, seconds in enumerate((5.0, 0.1, 3.0)):
        memory.put(key(index), {"a": Number(index)}, seconds)
    memory.put(key(3), {"a": Number(3)}, 4.0)
    assert [memory.tier(key(index)) for index in range(4)] == ["memory", None, "memory", "memory"]


def test_what_costs_more_than_newcomers_still_ages_out_unless_it_is_used() -> None:
    """Each eviction raises the worth of whatever comes or is used after it, so a dear entry lasts, but not forever."""
    used, unused = MemoryCache(CODEC, 20), MemoryCache(CODEC, 20)
    for memory in (used, unused):
        memory.put(key(0), {"a": Number(0)}, 3.0)
        for index in range(1, 12):
            memory.put(key(index), {"a": Number(index)}, 1.0)
            if memory is used:
                assert memory.get(key(0)) is not None
    assert (used.tier(key(0)), unused.tier(key(0))) == ("memory", None)


def test_clearing_forgets_everything() -> None:
    memory = MemoryCache(CODEC, 30)
    for index in range(5):
        memory.put(key(index), {"a": Number(index)}, 1.0)
    memory.clear()
    assert (len(memory), memory.used_bytes) == (0, 0)
    memory.put(KEY, {"a": Number(1)}, 1.0)
    assert memory.get(KEY) is not None
