"""The numbered events of a job, and those who watch them live."""

from __future__ import annotations

from .jobs import NumberedEvent, Preview


class Watcher:
    """Gives the events of one job in order and without gaps, first those that are kept, then new ones as they come.

    Between events it may give a preview, of which only the latest is held.
    """

    async def next(self, timeout_seconds: float | None = None) -> NumberedEvent | Preview | None:
        """Returns what comes next; None after the last event of a job that has ended.

        Raises TimeoutError when nothing came in time (it may be called again), SlowReader when events came faster than they
        were taken (watch again from its `last`), StoreClosed when the store closes.
        """
        raise NotImplementedError

    def __aiter__(self) -> Watcher:
        return self

    async def __anext__(self) -> NumberedEvent | Preview:
        item = await self.next()
        if item is None:
            raise StopAsyncIteration
        return item
