"""The commands `latentgraph token`: who may use a server. They work beside a running one, on its data folder."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from latentgraph.graph import LatentGraphError

from .exits import ending, print_json
from .options import AsJson, DataDir

if TYPE_CHECKING:
    from latentgraph.server.jobs.records import Tokens

T = TypeVar("T")

token_app = typer.Typer(no_args_is_help=True, help="Make, list and revoke the tokens of a server.")


class ScopeName(StrEnum):
    """What a token allows: each includes the one before."""

    read = "read"
    submit = "submit"
    admin = "admin"


@token_app.command()
def create(
    scope: Annotated[
        ScopeName, typer.Option(help="read: look at its own jobs; submit: also make some; admin: everything.")
    ],
    name: Annotated[str, typer.Option(help="Whose it is, for `token list`.")] = "",
    max_waiting: Annotated[int | None, typer.Option(min=1, help="Jobs of it that may wait at once.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Requests that it may make.")] = None,
    max_upload_megabytes: Annotated[int | None, typer.Option(min=0, help="What its uploads may take together.")] = None,
    data: DataDir = None,
) -> None:
    """Make a token and print it. It is shown this once: only its hash is kept."""
    from latentgraph.server.tokens import make_token

    with ending():
        text, stored = make_token(
            name,
            (scope.value,),
            max_waiting=max_waiting,
            max_upload_bytes=None if max_upload_megabytes is None else max_upload_megabytes * 1_000_000,
            requests_per_minute=requests_per_minute,
        )
        _with_tokens(data, lambda tokens: tokens.put(stored))
        typer.echo(text)


@token_app.command("list")
def list_tokens(data: DataDir = None, as_json: AsJson = False) -> None:
    """List the tokens: id, scope, when it was made, name."""
    with ending(as_json):
        tokens = _with_tokens(data, lambda tokens: tokens.list())
        rows: list[dict[str, Any]] = [
            {
                "id": token.id,
                "name": token.name,
                "scopes": sorted(token.scopes),
                "created": datetime.fromtimestamp(token.created_us / 1e6, UTC).isoformat(timespec="seconds"),
                "revoked": token.revoked_us is not None,
            }
            for token in tokens
        ]
        if as_json:
            print_json(rows)
            return
        for row in rows:
            revoked = " (revoked)" if row["revoked"] else ""
            typer.echo(f"{row['id']}  {'+'.join(row['scopes'])}  {row['created']}  {row['name']}{revoked}")


@token_app.command()
def revoke(id: Annotated[str, typer.Argument(help="As `token list` shows it.")], data: DataDir = None) -> None:
    """Revoke a token: whoever has it is refused from now on."""
    with ending():
        if not _with_tokens(data, lambda tokens: tokens.revoke(id)):
            raise LatentGraphError(
                f"there is no token {id!r} that could be revoked; `latentgraph token list` shows them"
            )
        typer.echo(f"revoked {id}")


def _with_tokens(data: Path | None, work: Callable[[Tokens], Awaitable[T]]) -> T:
    """Returns what some work with the tokens of a data folder gives."""
    import asyncio

    from latentgraph.server.clock import time_us
    from latentgraph.server.jobs.database import Database
    from latentgraph.server.jobs.records import Tokens

    from .folders import data_folder

    folder = data or data_folder()

    async def run() -> T:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        database = await Database.open(folder / "jobs.sqlite3")
        try:
            return await work(Tokens(database, time_us))
        finally:
            await database.close()

    return asyncio.run(run())
