"""Changes: whoever waits is woken, and a change between a look and a wait is not lost."""

from __future__ import annotations

import asyncio

from latentgraph.server.jobs.changes import Changes


async def test_a_change_before_the_wait_is_not_lost() -> None:
    changes = Changes()
    seen = changes.count
    changes.tell()
    assert await changes.after(seen) == 1


async def test_all_who_wait_are_woken_by_one_change() -> None:
    changes = Changes()
    waiting = [asyncio.ensure_future(changes.after(0)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(one.done() for one in waiting)
    changes.tell()
    assert await asyncio.gather(*waiting) == [1, 1, 1]


async def test_when_the_time_is_up_the_count_is_as_it_was() -> None:
    changes = Changes()
    assert await changes.after(0, timeout_seconds=0) == 0


async def test_a_waiter_that_was_cancelled_is_forgotten() -> None:
    changes = Changes()
    waiting = asyncio.ensure_future(changes.after(0))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    changes.tell()
    assert waiting.cancelled()
