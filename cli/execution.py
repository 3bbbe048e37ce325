"""Execution: a workflow under way, and what came of it. What it computes is the engine's to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentgraph.graph import Run, RunResult, Scheduler

from .outputs import save_output, saved_files


@dataclass(frozen=True)
class Outcome:
    """What a run gave: its result, and the files by output name for those outputs that were saved."""

    result: RunResult
    files: Mapping[str, tuple[Path, ...]]

    def as_json(self) -> dict[str, Any]:
        """Returns the outcome as a JSON object: run, status, seconds, outputs, nodes, failures."""
        result = self.result
        return {
            "run": result.run,
            "status": result.status,
            "seconds": round(result.seconds, 6),
            "outputs": {
                name: {"files": [str(path) for path in self.files[name]], **_value_json(value)}
                for name, value in result.outputs.items()
            },
            "nodes": {
                id: {"status": report.status, "tier": report.tier, "seconds": round(report.seconds, 6)}
                for id, report in result.nodes.items()
            },
            "failures": {id: str(error) for id, error in result.failures.items()},
        }


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


def _value_json(value: Any) -> dict[str, Any]:
    """Returns an output's literal, or the name of its type."""
    return {"value": value} if isinstance(value, str | int | float | bool) else {"type": type(value).__name__}
