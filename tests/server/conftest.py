"""What several tests of the server run on: a clock that is set by hand, and a store by it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from latentgraph.server.jobs.store import JobStore

from .queue_fakes import HandClock, opened


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def store(tmp_path: Path, clock: HandClock) -> AsyncIterator[JobStore]:
    async with opened(tmp_path, clock) as store:
        yield store
