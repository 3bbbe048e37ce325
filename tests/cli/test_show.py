"""What a person sees of a run, on a terminal and where there is none."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from latentgraph.cli.show import (
    RunBars,
    make_console,
    show,
    show_explanations,
    show_message,
    show_problems,
    show_summary,
)
from latentgraph.graph import (
    Explanation,
    NodeFinished,
    NodeProgress,
    NodeReport,
    NodeReused,
    NodeSaved,
    NodeStarted,
    NodeWarned,
    Problem,
    RunResult,
    RunStarted,
)


def terminal() -> Console:
    return Console(file=StringIO(), force_terminal=True, color_system=None, width=80, emoji=False, highlight=False)


def plain() -> Console:
    return Console(file=StringIO(), width=100_000, emoji=False, highlight=False)


def printed(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_bars_follow_the_nodes_and_the_steps() -> None:
    console = terminal()
    with RunBars(console) as bars:
        for event in (
            RunStarted("r", nodes=4),
            NodeReused("r", "empty", "EmptyLatent", tier="disk"),
            NodeStarted("r", "sample", "KSampler"),
            NodeStarted("r", "other", "LoadImage"),
            NodeProgress("r", "sample", "KSampler", step=5, total=20, seconds_left=3.2),
        ):
            bars.on_event(event)
        bars._progress.refresh()
        during = printed(console)
        bars.on_event(NodeFinished("r", "sample", "KSampler", seconds=4.0))
        bars._progress.refresh()
        after = printed(console)[len(during) :]
    assert "nodes: sample, other" in during
    assert "nodes: other" in after
    assert "1/4" in during
    assert "5/20" in during
    assert "3.2 s left" in during
    assert "2/4" in after
    assert "/20" not in after.rpartition("2/4")[2]


def test_warnings_and_files_are_told_as_they_happen_exactly_as_they_are() -> None:
    console = plain()
    with RunBars(console) as bars:
        bars.on_event(NodeWarned("r", "grow[2]", "TextEncode", "no [red]embedding[/red] :apple:"))
        bars.on_event(NodeSaved("r", "save", "SaveImage", Path("out/[a] cat.png")))
    assert printed(console) == "warning: node 'grow[2]': no [red]embedding[/red] :apple:\nsaved out/[a] cat.png\n"


def test_without_a_terminal_there_are_no_bars() -> None:
    console = plain()
    with RunBars(console) as bars:
        bars.on_event(NodeStarted("r", "sample", "KSampler"))
        bars.on_event(NodeProgress("r", "sample", "KSampler", step=1, total=2))
        bars.on_event(NodeFinished("r", "sample", "KSampler"))
    assert printed(console) == ""


def test_the_summary_says_what_ran_what_came_from_where_and_how_long_it_took() -> None:
    console = plain()
    reports = {
        "checkpoint": NodeReport("skipped"),
        "sample": NodeReport("ran", None, 1.5),
        "decode": NodeReport("cached", "disk", 0.25),
        "save": NodeReport("failed", None, 0.01),
    }
    show_summary(console, RunResult("r", "failed", {}, reports, 2.0))  # type: ignore[arg-type]
    lines = [line.split() for line in printed(console).splitlines()]
    assert lines == [
        ["node", "from", "seconds"],
        ["sample", "ran", "1.50"],
        ["decode", "cached", "disk", "saved", "0.25"],
        ["save", "failed", "0.01"],
        ["failed", "in", "2.00", "s,", "1", "not", "needed"],
    ]


@pytest.mark.parametrize("severity", ["error", "warning"])
def test_a_problem_is_printed_as_it_is(severity: str) -> None:
    console = plain()
    problem = Problem("unknown-type", "there is no [bold]type[/bold] :cat:.", severity=severity)  # type: ignore[arg-type]
    show_problems(console, [problem])
    assert printed(console) == f"{problem}\n"


def test_a_message_is_printed_as_it_is() -> None:
    console = plain()
    show_message(console, "error", "a [red] apple :apple:")
    assert printed(console) == "error: a [red] apple :apple:\n"


def test_a_table_fits_a_terminal_and_is_whole_lines_elsewhere() -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("name", "word " * 40 + "end")
    table.add_row("other", "short")
    narrow, wide = terminal(), plain()
    show(narrow, table)
    show(wide, table)
    assert len(printed(narrow).splitlines()) > 3
    assert [line.split()[0] for line in printed(wide).splitlines()] == ["name", "other"]
    assert all(line == line.rstrip() for line in printed(wide).splitlines())


def test_explanations_say_why() -> None:
    console = plain()
    show_explanations(console, [Explanation("sample", "KSampler", "miss", None, ("input seed: 7 -> 8", "[red]"))])
    assert printed(console).splitlines()[1].split() == [
        "sample",
        "KSampler",
        "miss",
        "input",
        "seed:",
        "7",
        "->",
        "8;",
        "[red]",
    ]


def test_a_console_without_a_terminal_cuts_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    make_console().print("word " * 100)
    assert len(capsys.readouterr().out.splitlines()) == 1
