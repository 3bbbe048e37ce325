"""What happens in a run, as it happens. Every event is frozen and names the run it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a node, or to the whole run if `node` is empty. `node_type` is the node's class name."""

    run: str
    node: str = ""
    node_type: str = ""


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """The run begins. Of its graph it needs `nodes` at most: those to compute and those to fetch."""

    nodes: int = 0


@dataclass(frozen=True, slots=True)
class NodeStarted(Event):
    """The node begins to compute."""


@dataclass(frozen=True, slots=True)
class NodeReused(Event):
    """The node's result came from the cache (`tier`) or from an equal node that was computing at the time ("shared")."""

    tier: str = ""
    seconds_saved: float = 0.0


@dataclass(frozen=True, slots=True)
class NodeProgress(Event):
    """`step` of `total` is done; `seconds_left` is an estimate from the steps so far, None before there is one.

    preview: makes a small picture, uint8 (h, w, 3), of the state so far; None if the node has none.
    """

    step: int = 0
    total: int = 0
    seconds_left: float | None = None
    preview: Callable[[], Any] | None = None


@dataclass(frozen=True, slots=True)
class NodeWarned(Event):
    """The node has something to say that is no error."""

    message: str = ""


@dataclass(frozen=True, slots=True)
class NodeSaved(Event):
    """The node wrote a file."""

    path: Path = Path()


@dataclass(frozen=True, slots=True)
class NodeFinished(Event):
    """The node computed its result in `seconds`."""

    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class NodeErred(Event):
    """The node raised `error`; whatever depends on it will not run."""

    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """The run is over: `status` is "succeeded", "failed" or "cancelled"."""

    status: str = ""


OnEvent = Callable[[Event], None]
"""Receives a run's events, one at a time, in order, from whichever thread they happen in. It must return soon."""
