"""Rates: how many requests a caller may make, counted in memory, each caller by itself.

The generic cell rate algorithm: one number a caller, no timers. The callers that are remembered are bounded, too; the one that
was seen longest ago is forgotten first, and begins anew.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable


class RateLimiter:
    """Counts what callers take. Belongs to one thread."""

    def __init__(self, remembered: int, *, now: Callable[[], float] = time.monotonic) -> None:
        self._remembered, self._now = remembered, now
        self._busy_until: OrderedDict[Hashable, float] = OrderedDict()

    def take(self, caller: Hashable, per_second: float, burst: int) -> float:
        """Takes one request; returns 0.0, or in how many seconds there will be one, if none is left (none is taken then)."""
        now, cost = self._now(), 1.0 / per_second
        busy_until = max(self._busy_until.get(caller, now), now)
        wait = busy_until + cost - burst * cost - now
        if wait > 1e-9:
            return wait
        self._busy_until[caller] = busy_until + cost
        self._busy_until.move_to_end(caller)
        if len(self._busy_until) > self._remembered:
            self._busy_until.popitem(last=False)
        return 0.0
