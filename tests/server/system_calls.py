"""System calls that fail on demand: the k-th of those that writing outputs makes, whichever it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CALLS = ("open", "fsync", "rename", "mkdir", "scandir")
"""The system calls of publishing that may fail, and between which a machine may crash."""


class Crash(BaseException):
    """The machine stopped here."""


@contextmanager
def at_call(number: int, fault: Callable[[], BaseException]) -> Iterator[list[str]]:
    """Has one of the system calls fail, counted from 0; yields the names of those that were made."""
    made: list[str] = []
    real = {name: getattr(os, name) for name in CALLS}

    def wrap(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            made.append(name)
            if len(made) == number + 1:
                raise fault()
            return real[name](*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, wrap(name))
        yield made
