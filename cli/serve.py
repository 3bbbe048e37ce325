"""The command `latentgraph serve`. What it starts is in `serving`, which is slow to import."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from enum import StrEnum
from typing import Annotated

import typer

from .exits import ending
from .options import CacheDir, DataDir, Models, PrecisionName


class LogFormat(StrEnum):
    """What `--logs` takes. auto: text on a terminal, and json anywhere else."""

    auto = "auto"
    json = "json"
    text = "text"


def serve(
    host: Annotated[
        str, typer.Option(help="The address to listen on. Only loopback works without a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8188,
    data: DataDir = None,
    device: Annotated[
        list[str] | None, typer.Option(help="A worker's device, as for run; repeat it for more workers.")
    ] = None,
    precision: Annotated[PrecisionName, typer.Option(help="As for run.")] = PrecisionName.auto,
    cache_dir: CacheDir = None,
    models: Models = None,
    name: Annotated[
        list[str] | None, typer.Option(help="A host name that the server is reached by; may be repeated.")
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL", help="A web page of elsewhere that may use the API, as https://studio.example (CORS)."
        ),
    ] = None,
    allow_webhook: Annotated[
        list[str] | None,
        typer.Option(metavar="NETWORK", help="A private network that webhooks may call, as 10.1.0.0/16."),
    ] = None,
    node_seconds: Annotated[
        float, typer.Option(min=1.0, help="How long a node may tell nothing before its worker is replaced.")
    ] = 3600.0,
    worker_gigabytes: Annotated[
        float | None, typer.Option(min=0.1, help="How much memory a worker may use before it is replaced.")
    ] = None,
    logs: Annotated[
        LogFormat, typer.Option(help="json: a line for each request and job; text: warnings, for people.")
    ] = LogFormat.auto,
) -> None:
    """Take workflows over HTTP and run them; http://127.0.0.1:8188 shows a page for people."""
    import asyncio

    from latentgraph.server.logs import logging_json

    from .folders import cache_folder, data_folder, models_folder
    from .serving import ServeOptions, run_server

    as_json = logs is LogFormat.json or (logs is LogFormat.auto and not sys.stderr.isatty())
    with ending(), logging_json(sys.stderr) if as_json else nullcontext():
        options = ServeOptions(
            host=host,
            port=port,
            data=data or data_folder(),
            devices=tuple(device or ("auto",)),
            models=models or models_folder(),
            precision=precision.value,
            cache_dir=cache_dir or cache_folder(),
            hosts=frozenset(name or ()),
            origins=frozenset(origin or ()),
            webhook_networks=tuple(allow_webhook or ()),
            node_seconds=node_seconds,
            worker_bytes=None if worker_gigabytes is None else round(worker_gigabytes * 1e9),
        )
        asyncio.run(run_server(options, lambda address: typer.echo(f"latentgraph serves {address}")))
