"""How a command ends: errors in words on standard error, as JSON on standard output where asked for, and the exit code."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.text import Text

from latentgraph.graph import InvalidWorkflow, LatentGraphError, NodeFailed, RunCancelled

from .show import make_console, show_message, show_problems

EXIT_FAILED, EXIT_INVALID, EXIT_BROKEN, EXIT_INTERRUPTED = 1, 2, 3, 130
TRACEBACK_VARIABLE = "LATENTGRAPH_TRACEBACK"


@contextmanager
def ending(as_json: bool = False) -> Iterator[None]:
    """Turns the errors of the engine into words and exit codes."""
    console = make_console(stderr=True)
    try:
        yield
    except InvalidWorkflow as error:
        show_problems(console, error.problems)
        for note in getattr(error, "__notes__", ()):
            console.print(Text(note), soft_wrap=True)
        _end(as_json, EXIT_INVALID, {"valid": False, "problems": [problem.as_json() for problem in error.problems]})
    except NodeFailed as error:  # what the run gave is printed already
        _show_error(error)
        raise typer.Exit(EXIT_FAILED) from None
    except (KeyboardInterrupt, RunCancelled):
        console.print("[yellow]interrupted[/]; the next run goes on from what the cache holds")
        _end(as_json, EXIT_INTERRUPTED, {"error": "interrupted"})
    except LatentGraphError as error:
        _show_error(error)
        _end(as_json, EXIT_INVALID, {"error": str(error)})
    except (typer.Exit, BrokenPipeError):
        raise
    except Exception as error:  # noqa: BLE001 - the last place where it can be put into words
        _show_error(error)
        _end(as_json, EXIT_BROKEN, {"error": str(error), "type": type(error).__name__})


def print_json(value: Any) -> None:
    """Prints a value as one JSON text on standard output."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def _show_error(error: Exception) -> None:
    """Prints an error; where it is no refusal of ours but a fault of a node or of latentgraph, how to see its trace."""
    console = make_console(stderr=True)
    fault = error.cause if isinstance(error, NodeFailed) else error
    if isinstance(fault, LatentGraphError):
        show_message(console, "error", str(error))
        return
    if os.environ.get(TRACEBACK_VARIABLE):
        sys.stderr.write("".join(traceback.format_exception(fault)))
    show_message(console, "error", str(error) if isinstance(error, NodeFailed) else f"{type(error).__name__}: {error}")
    if not os.environ.get(TRACEBACK_VARIABLE):
        console.print(f"For the trace, run it again with {TRACEBACK_VARIABLE}=1.", soft_wrap=True)


def _end(as_json: bool, code: int, content: Mapping[str, Any]) -> None:
    if as_json:
        print_json(content)
    raise typer.Exit(code) from None
