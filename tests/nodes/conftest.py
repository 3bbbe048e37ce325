"""Weights for nodes to run on (tiny networks, in the exact precision), and a context that remembers what it was told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latentgraph.graph import Context, RunCancelled


class Watched(Context):
    """Remembers progress, previews, warnings and files. `cancel_at`: after so many steps the run counts as cancelled."""

    __slots__ = ("cancel_at", "files", "previews", "steps", "warnings")

    def __init__(self, cancel_at: int | None = None, **given: Any) -> None:
        super().__init__(**given)
        self.cancel_at = cancel_at
        self.steps: list[tuple[int, int]] = []
        self.previews: list[Any] = []
        self.warnings: list[str] = []
        self.files: list[Path] = []

    def progress(self, step: int, total: int, preview: Any = None) -> None:
        self.check_cancelled()
        self.steps.append((step, total))
        if preview is not None:
            self.previews.append(preview())

    def check_cancelled(self) -> None:
        if len(self.steps) == self.cancel_at:
            raise RunCancelled("cancelled")

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def saved(self, path: Path) -> None:
        self.files.append(path)


@pytest.fixture(scope="session")
def watched() -> type[Watched]:
    return Watched


@pytest.fixture(scope="session")
def context() -> Context:
    """A context with memory for weights, as a run would give it."""
    from latentgraph.diffusion.networks.memory import WeightMemory

    return Context(resources={WeightMemory: WeightMemory(precision="exact")})


@pytest.fixture(scope="session")
def sd1(tiny_sd1: Path, context: Context) -> Any:
    """The parts of a tiny SD1 checkpoint."""
    from latentgraph.nodes.loading import LoadCheckpoint

    return LoadCheckpoint(file=tiny_sd1).run(context)
