"""Time as the server counts it: integer microseconds since 1970 in UTC, from a clock that is passed in."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Returns the time in microseconds since 1970, UTC."""

SECOND_US = 1_000_000
LAST_US = 2**63 - 1  # what fits the store's integers


def time_us() -> int:
    """Returns the time of the system's clock."""
    return time.time_ns() // 1000
