"""The command `latentgraph submit`: runs a workflow on a server as `run` does here, with the same bars and exit codes.

Exit codes: 0 done, 1 the job failed, 2 the command or the document is wrong or the server refuses it, 3 the server can't be
reached or fails, 130 interrupted or cancelled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from latentgraph.graph import LatentGraphError

from .exits import EXIT_BROKEN, EXIT_FAILED, EXIT_INTERRUPTED, TRACEBACK_VARIABLE, ending, print_json
from .options import AsJson, File, OutputFolder, Settings
from .show import RunBars, make_console, show_message, show_summary

if TYPE_CHECKING:
    from latentgraph.graph import Document
    from latentgraph.server.api.job_views import JobView
    from latentgraph.server.client import Client

    from .sources import Source

TOKEN_VARIABLE, SERVER_VARIABLE = "LATENTGRAPH_TOKEN", "LATENTGRAPH_SERVER"
_CANCEL_SECONDS = 5.0  # how long somebody who interrupted is kept waiting


def submit(
    file: File,
    server: Annotated[
        str, typer.Option(envvar=SERVER_VARIABLE, metavar="URL", help="The server's address.")
    ] = "http://127.0.0.1:8188",
    token_file: Annotated[
        Path | None,
        typer.Option(help=f"A file with the token; without it, {TOKEN_VARIABLE} holds it if one is needed."),
    ] = None,
    settings: Settings = None,
    output: OutputFolder = Path("output"),
    priority: Annotated[int, typer.Option(min=-100, max=100, help="Higher runs first.")] = 0,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the job's id and leave it to the server.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a workflow on a server, fetch the files that it made and print them. Pictures that it names are sent along."""
    from latentgraph.server.client import Client

    from .settings import telling_how

    with ending(as_json), _server_faults(as_json), _telling_of_tokens():
        source, params = _read(file, settings)
        _check_output(output)
        token = _token(token_file)
        with Client(server, token) as client:
            job: JobView | None = None
            try:
                with telling_how(source.document.params):
                    job = client.submit(_sent(source), params, priority=priority)
                if not no_wait:
                    job = _follow(client, job)
            except KeyboardInterrupt:
                _end_interrupted(client.url, token, job, as_json)
            if no_wait:
                _show_submitted(job, client.url, as_json)
            else:
                _show_ended(job, client.download(job, output), as_json)


def _read(file: Path, settings: list[str] | None) -> tuple[Source, dict[str, Any]]:
    """Returns the workflow, and the values of `--set`."""
    from .settings import read_settings
    from .sources import read_source

    source = read_source(file)
    given = read_settings(source.document.params, settings) if settings else {}
    return source, given


def _sent(source: Source) -> Path | Document:
    """Returns what the client sends: the file as it is written, or the document that a picture carries."""
    document = source.document
    return document if source.made_as or document.file is None else document.file


def _check_output(folder: Path) -> None:
    from .folders import check_writable

    check_writable(folder, "output folder", "name another one with --output")


def _token(file: Path | None) -> str | None:
    """Returns the token to show. Raises LatentGraphError for a file that holds none."""
    if file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        words = file.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise LatentGraphError(f"the token file {str(file)!r} can't be read: {reason}") from None
    if len(words) != 1:
        raise LatentGraphError(f"the token file {str(file)!r} holds {len(words)} words; expected the token alone")
    return words[0]


def _follow(client: Client, job: JobView) -> JobView:
    """Shows a job until it has ended and returns it."""
    from latentgraph.server.api.job_views import EventView

    from .remote import WAITS, as_event, why_again

    console = make_console(stderr=True)
    with RunBars(console) as bars:
        for told in client.events(job.id):
            if not isinstance(told, EventView):
                continue
            if reason := why_again(told):
                show_message(console, "warning", reason)
            if told.kind in WAITS:
                bars.wait(f"job {WAITS[told.kind]}")
            if (event := as_event(job.id, told)) is not None:
                bars.on_event(event)
    return client.job(job.id)


def _end_interrupted(url: str, token: str | None, job: JobView | None, as_json: bool) -> NoReturn:
    """Asks the server to cancel the job, says what came of it, and ends the command. job: None if no answer named it yet."""
    told: dict[str, Any] = {"error": "interrupted"}
    if job is None:
        words = f"interrupted; {url} may have taken the job, and had not said so before the interruption"
        show_message(make_console(stderr=True), "warning", words)
    else:
        told |= {"job": job.id, "cancelled": _cancel(url, token, job.id)}
    if as_json:
        print_json(told)
    raise typer.Exit(EXIT_INTERRUPTED) from None


def _cancel(url: str, token: str | None, id: str) -> bool:
    """Asks a server to cancel a job, says what came of it, and returns whether it will be."""
    from latentgraph.server.client import Client
    from latentgraph.server.client.transport import Patience

    console = make_console(stderr=True)
    try:
        with Client(url, token, patience=Patience(total=_CANCEL_SECONDS, first=_CANCEL_SECONDS)) as client:
            client.cancel(id)
    except LatentGraphError as error:
        show_message(console, "warning", f"interrupted; job {id} goes on, since it could not be cancelled: {error}")
        return False
    console.print(f"[yellow]interrupted[/]; the server was asked to cancel job {id}", soft_wrap=True)
    return True


def _show_submitted(job: JobView, url: str, as_json: bool) -> None:
    if as_json:
        print_json({"job": job.id, "status": job.state.value, "url": f"{url}{job.href}"})
    else:
        typer.echo(job.id)


def _show_ended(job: JobView, files: Mapping[str, tuple[Path, ...]], as_json: bool) -> None:
    """Shows what came of a job, and ends the command with its exit code unless it went well."""
    from .remote import as_result

    console = make_console(stderr=True)
    if job.nodes:
        show_summary(console, as_result(job))
    if as_json:
        print_json(_as_json(job, files))
    for path in dict.fromkeys(path for paths in files.values() for path in paths) if not as_json else ():
        typer.echo(str(path.absolute()))
    if job.state.value == "cancelled":
        console.print(f"[yellow]cancelled[/]: job {job.id}", soft_wrap=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    if job.error is not None:
        if job.error.detail and os.environ.get(TRACEBACK_VARIABLE):
            typer.echo(job.error.detail, err=True)
        show_message(console, "error", f"job {job.id}: {job.error.message}")
    if job.state.value != "succeeded":
        raise typer.Exit(EXIT_FAILED)


def _as_json(job: JobView, files: Mapping[str, tuple[Path, ...]]) -> dict[str, Any]:
    """Returns what came of a job, in the form that `run --json` has; error: why it failed, if it did."""
    outputs: dict[str, Any] = {
        name: {"files": [str(path.absolute()) for path in paths]} for name, paths in files.items()
    }
    for name, value in job.values.items():
        outputs.setdefault(name, {"files": []})["value"] = value
    error = job.error
    return {
        "job": job.id,
        "status": job.state.value,
        "seconds": job.seconds,
        "outputs": outputs,
        "nodes": {
            id: {"status": node.status, "tier": node.tier or None, "seconds": round(node.seconds, 6)}
            for id, node in job.nodes.items()
        },
        "failures": {error.node: error.message} if error is not None and error.node else {},
        "error": error.message if error is not None else None,
    }


@contextmanager
def _telling_of_tokens() -> Iterator[None]:
    """Says of a missing or unknown token how to give one."""
    from latentgraph.server.client.errors import NotAllowed

    try:
        yield
    except NotAllowed as error:
        if error.status != HTTPStatus.UNAUTHORIZED:
            raise
        raise LatentGraphError(f"{error} Give it in {TOKEN_VARIABLE}, or in a file with --token-file.") from None


@contextmanager
def _server_faults(as_json: bool) -> Iterator[None]:
    """Tells what fails at the server, rather than in the command or the document, with an exit code of its own."""
    from latentgraph.server.client.errors import Busy, DamagedDownload, NotUnderstood, ServerFailed, Unreachable

    try:
        yield
    except (Busy, DamagedDownload, NotUnderstood, ServerFailed, Unreachable) as error:
        show_message(make_console(stderr=True), "error", str(error))
        if as_json:
            print_json({"error": str(error)})
        raise typer.Exit(EXIT_BROKEN) from None
