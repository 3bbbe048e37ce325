"""Rates: a burst, then an even flow, for each caller by itself."""

from __future__ import annotations

import pytest

from latentgraph.server.api.rates import RateLimiter


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    clock = Hands()
    limiter = RateLimiter(10, now=clock)
    assert [limiter.take("a", 2.0, 4) for _ in range(4)] == [0.0] * 4
    assert limiter.take("a", 2.0, 4) == pytest.approx(0.5)
    assert limiter.take("b", 2.0, 4) == 0.0
    clock.now += 0.5
    assert limiter.take("a", 2.0, 4) == 0.0
    assert limiter.take("a", 2.0, 4) == pytest.approx(0.5)
    clock.now += 1000
    assert [limiter.take("a", 2.0, 4) for _ in range(5)][-1] == pytest.approx(0.5)


def test_over_long_times_no_more_passes_than_the_rate() -> None:
    clock = Hands()
    limiter = RateLimiter(10, now=clock)
    passed = 0
    for _ in range(10_000):
        passed += limiter.take("a", 5.0, 10) == 0.0
        clock.now += 0.01
    assert 500 <= passed <= 511


def test_those_who_were_seen_longest_ago_are_forgotten() -> None:
    clock = Hands()
    limiter = RateLimiter(3, now=clock)
    for caller in "abcd":
        limiter.take(caller, 1.0, 1)
    assert limiter.take("d", 1.0, 1) > 0
    assert limiter.take("a", 1.0, 1) == 0.0
