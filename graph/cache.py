"""Caches of node results, in memory and in tiers. A cache holds values by key; what a key means is `keys`' business.

A value that is handed out is a copy, so no node can change what the cache holds. A fault of a cache is a miss and a log line.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple, Protocol

from .values import ValueCodec

Ports = Mapping[str, Any]
"""What a node gave, by output port."""


class Hit(NamedTuple):
    """A cached result: its values, the tier it came from, and the seconds that computing it took."""

    ports: Ports
    tier: str
    seconds: float


class Cache(Protocol):
    """Results by key."""

    def get(self, key: str) -> Hit | None:
        """Returns the result, or None."""
        ...

    def tier(self, key: str) -> str | None:
        """Returns the name of the tier that has the key, or None, without reading the value."""
        ...

    def put(self, key: str, ports: Ports, seconds: float) -> None:
        """Keeps a result that took `seconds` to compute, or decides not to."""
        ...


class NoCache:
    """Keeps nothing."""

    def get(self, key: str) -> Hit | None:
        """Returns None."""
        return None

    def tier(self, key: str) -> str | None:
        """Returns None."""
        return None

    def put(self, key: str, ports: Ports, seconds: float) -> None:
        """Does nothing."""


@dataclass(slots=True)
class _Entry:
    ports: Ports
    seconds: float
    nbytes: int
    worth: float


class MemoryCache:
    """Results in memory under a byte budget.

    What goes first is what saves the least time per byte, counting from its last use: GreedyDual-Size (Cao and Irani 1997),
    where an entry's worth is the worth of the last evicted entry plus seconds per byte.
    """

    name = "memory"

    def __init__(self, codec: ValueCodec, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._codec = codec
        self._entries: dict[str, _Entry] = {}
        self._heap: list[tuple[float, str]] = []
        self._floor = 0.0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def tier(self, key: str) -> str | None:
        """See Cache."""
        return self.name if key in self._entries else None

    def get(self, key: str) -> Hit | None:
        """See Cache. The values are copies."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            entry.worth = self._floor + entry.seconds / entry.nbytes
        copies = {name: self._codec.copy(value) for name, value in entry.ports.items()}
        return Hit(copies, self.name, entry.seconds)

    def put(self, key: str, ports: Ports, seconds: float) -> None:
        """See Cache. Keeps copies; a result larger than the whole budget is not kept."""
        nbytes = 1 + sum(self._codec.nbytes(value) for value in ports.values())
        if nbytes > self.budget_bytes or key in self._entries:
            return
        kept = {name: self._codec.copy(value) for name, value in ports.items()}
        with self._lock:
            if key in self._entries:
                return
            entry = _Entry(kept, seconds, nbytes, self._floor + seconds / nbytes)
            self._entries[key] = entry
            self.used_bytes += nbytes
            heapq.heappush(self._heap, (entry.worth, key))
            while self.used_bytes > self.budget_bytes:
                self._evict()

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._entries.clear()
            self._heap.clear()
            self.used_bytes = 0

    def _evict(self) -> None:
        """Drops the entry of least worth; heap entries are brought up to date when they come to the top."""
        while True:
            worth, key = heapq.heappop(self._heap)
            entry = self._entries[key]
            if entry.worth > worth:
                heapq.heappush(self._heap, (entry.worth, key))
                continue
            del self._entries[key]
            self.used_bytes -= entry.nbytes
            self._floor = worth
            return


class TieredCache:
    """Several caches as one, fastest first. What a slower tier has is copied into the faster ones when it is read."""

    def __init__(self, tiers: Sequence[Cache]) -> None:
        self._tiers = tuple(tiers)

    def tier(self, key: str) -> str | None:
        """See Cache."""
        return next((name for cache in self._tiers if (name := cache.tier(key)) is not None), None)

    def get(self, key: str) -> Hit | None:
        """See Cache."""
        for level, cache in enumerate(self._tiers):
            hit = cache.get(key)
            if hit is not None:
                for faster in self._tiers[:level]:
                    faster.put(key, hit.ports, hit.seconds)
                return hit
        return None

    def put(self, key: str, ports: Ports, seconds: float) -> None:
        """See Cache."""
        for cache in self._tiers:
            cache.put(key, ports, seconds)
