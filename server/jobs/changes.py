"""Changes: wakes whoever waits for something to change, and loses no change that comes between a look and a wait."""

from __future__ import annotations

import asyncio


class Changes:
    """A count that only rises. One looks at `count`, does its work, and waits until the count has passed what it saw.

    It belongs to one event loop.
    """

    def __init__(self) -> None:
        self.count = 0
        self._waiters: set[asyncio.Future[None]] = set()

    def tell(self) -> None:
        """Raises the count and wakes all who wait."""
        self.count += 1
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def after(self, seen: int, timeout_seconds: float | None = None) -> int:
        """Returns the count once it is above `seen`, or as it is when the time is up."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while self.count <= seen:
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.add(waiter)
                    try:
                        await waiter
                    finally:
                        self._waiters.discard(waiter)
        except TimeoutError:
            pass
        return self.count
