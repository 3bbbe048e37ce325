"""What a person sees of a run on the terminal: bars while it runs, a summary when it is over, problems when it can't.

Where standard error or output is no terminal, nothing is cut, folded or coloured, so that other programs can read it.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from latentgraph.graph import (
    Event,
    Explanation,
    NodeErred,
    NodeFinished,
    NodeProgress,
    NodeReused,
    NodeSaved,
    NodeStarted,
    NodeWarned,
    Problem,
    RunResult,
    RunStarted,
)

_STATUS_STYLES = {"ran": "green", "cached": "cyan", "failed": "bold red", "blocked": "red", "cancelled": "yellow"}
_SEVERITY_STYLES = {"error": "bold red", "warning": "yellow"}


def make_console(*, stderr: bool = False) -> Console:
    """Returns a console that prints what it is given: no emoji codes, no colours of its own choice."""
    console = Console(stderr=stderr, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = 100_000
    return console


def show(console: Console, what: RenderableType) -> None:
    """Prints a table or a text: fitted to a terminal, and in whole lines anywhere else."""
    if console.is_terminal:
        console.print(what)
        return
    with console.capture() as capture:
        console.print(what)
    console.file.write("\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n")


def show_message(console: Console, kind: str, message: str) -> None:
    """Prints a sentence after its kind, "error" or "warning", exactly as it is."""
    console.print(Text.assemble((f"{kind}:", _SEVERITY_STYLES[kind]), " ", message), soft_wrap=True)


class RunBars:
    """Progress bars of one run: one for the nodes, and one for each node that reports steps. Use it around the run.

    A run that starts anew, as one on a server may, begins its bars anew.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._run = self._progress.add_task("nodes", total=None, left="")
        self._steps: dict[str, TaskID] = {}
        self._running: dict[str, None] = {}

    def __enter__(self) -> RunBars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_event(self, event: Event) -> None:
        """Brings the bars up to date with an event of the run."""
        if isinstance(event, RunStarted):
            self._begin(event.nodes)
        elif isinstance(event, NodeStarted):
            self._running[event.node] = None
            self._name_running()
        elif isinstance(event, NodeProgress):
            bar = self._steps.get(event.node)
            if bar is None:
                bar = self._steps[event.node] = self._progress.add_task(event.node, total=event.total, left="")
            left = "" if event.seconds_left is None else f"{event.seconds_left:.1f} s left"
            self._progress.update(bar, completed=event.step, total=event.total, left=left)
        elif isinstance(event, NodeFinished | NodeReused | NodeErred):
            self._progress.advance(self._run)
            self._running.pop(event.node, None)
            self._name_running()
            if event.node in self._steps:
                self._progress.remove_task(self._steps.pop(event.node))
        elif isinstance(event, NodeWarned):
            where = f"node {event.node!r}: " if event.node else ""
            show_message(self._console, "warning", where + event.message)
        elif isinstance(event, NodeSaved):
            self._console.print(Text.assemble(("saved", "green"), " ", str(event.path)), soft_wrap=True)

    def wait(self, words: str) -> None:
        """Shows what is waited for, until a node begins."""
        self._progress.update(self._run, description=words)

    def _begin(self, nodes: int) -> None:
        for bar in (self._run, *self._steps.values()):
            self._progress.remove_task(bar)  # a total that is known can't be made unknown
        self._steps.clear()
        self._running.clear()
        self._run = self._progress.add_task("nodes", total=nodes or None, left="")

    def _name_running(self) -> None:
        names = ", ".join(self._running)
        self._progress.update(self._run, description=f"nodes: {names}" if names else "nodes")


def show_summary(console: Console, result: RunResult) -> None:
    """Prints what ran, what came from where, and how long each took. Nodes that were not needed are counted only."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading, side in (("node", "left"), ("", "left"), ("from", "left"), ("seconds", "right")):
        table.add_column(heading, justify="right" if side == "right" else "left")
    skipped = 0
    for id, report in result.nodes.items():
        if report.status == "skipped":
            skipped += 1
            continue
        style = _STATUS_STYLES.get(report.status, "")
        seconds = f"{report.seconds:.2f}" if report.status in ("ran", "failed") else f"saved {report.seconds:.2f}"
        table.add_row(escape(id), f"[{style}]{report.status}[/]", report.tier or "", seconds)
    show(console, table)
    not_needed = f", {skipped} not needed" if skipped else ""
    console.print(f"{result.status} in {result.seconds:.2f} s{not_needed}")


def show_problems(console: Console, problems: Iterable[Problem]) -> None:
    """Prints problems, one a line, in the form that editors understand: file:line:column: severity: message."""
    for problem in problems:
        severity = problem.severity
        before, _, after = str(problem).partition(f" {severity}: ")
        text = Text.assemble(before, " ", (f"{severity}:", _SEVERITY_STYLES[severity]), " ", after)
        console.print(text, soft_wrap=True)


def show_explanations(console: Console, explanations: Iterable[Explanation]) -> None:
    """Prints for each node whether it would be reused or run, and why."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("node", "type", "", "from", "why"):
        table.add_column(heading, overflow="fold")
    styles = {"hit": "cyan", "miss": "yellow", "not needed": "dim"}
    for one in explanations:
        status = f"[{styles[one.status]}]{one.status}[/]"
        table.add_row(escape(one.node), one.type, status, one.tier or "", escape("; ".join(one.changes)))
    show(console, table)
