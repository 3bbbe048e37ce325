"""Execution: a workflow under way, and what came of it. What it computes is the engine's to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from latentgraph.graph import Run, RunResult, Scheduler

from .outputs import save_output, saved_files


@dataclass(frozen=True)
class Outcome:
    """What a run gave: its result, and the files by output name for those outputs that were saved."""

    result: RunResult
    files: Mapping[str, tuple[Path, ...]]


class Execution:
    """A workflow that runs. One thread waits for its end; any may cancel it.

    folder: where an output picture that no node of the document saves is saved, under the output's name; None for nowhere.
    """

    def __init__(self, scheduler: Scheduler, run: Run, folder: Path | None) -> None:
        self._scheduler, self._run, self._folder = scheduler, run, folder

    def cancel(self) -> None:
        """Stops it at the next step of what it computes. Safe to repeat."""
        self._scheduler.cancel(self._run)

    def wait(self) -> Outcome:
        """Returns what came of it. An interrupt of the waiting thread cancels it within a step and is raised on."""
        try:
            result = self._run.wait()
        except BaseException:
            self.cancel()
            self._run.wait()
            raise
        files = saved_files(self._run.plan.graph, result)
        if self._folder is not None and result.status != "cancelled":
            for name, value in result.outputs.items():
                if name not in files:
                    files[name] = save_output(name, value, self._folder, self._run.provenance)
        return Outcome(result, files)
