"""Streams: answers that stay open. How many there may be, and how they end when the server does.

A stream is a task; closing cancels all of them, so that no client keeps a server from ending. What they tell is not known here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from .problems import Refusal, retry_after

LOOK_SECONDS = 1.0
"""How often it is looked whether a client that is told nothing is still there."""


def is_there(request: web.Request) -> bool:
    """Returns whether the client of a request has not gone away."""
    return request.transport is not None and not request.transport.is_closing()


class Streams:
    """The open streams of one app, counted by owner."""

    def __init__(self, most: int, most_per_owner: int) -> None:
        self._most, self._most_per_owner = most, most_per_owner
        self._tasks: set[asyncio.Task[object]] = set()
        self._by_owner: Counter[str] = Counter()
        self._closing = False

    def __len__(self) -> int:
        return len(self._tasks)

    @contextmanager
    def place(self, owner: str) -> Iterator[None]:
        """Holds a place for the current task's stream. Raises Refusal if there is none, or if the server is ending."""
        if self._closing:
            raise Refusal("draining", "The server is shutting down; ask again in a moment.", headers=retry_after(5))
        if len(self._tasks) >= self._most or self._by_owner[owner] >= self._most_per_owner:
            words = (
                f"There are {len(self._tasks)} open streams, {self._by_owner[owner]} of them yours; close one first."
            )
            raise Refusal("too-many-streams", words, headers=retry_after(5))
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._by_owner[owner] += 1
        try:
            yield
        finally:
            self._tasks.discard(task)
            self._by_owner[owner] -= 1
            if not self._by_owner[owner]:
                del self._by_owner[owner]

    def close(self) -> None:
        """Ends all streams and lets no more begin."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
