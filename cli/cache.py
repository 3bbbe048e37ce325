"""The commands `latentgraph cache`: how much the results of runs take on the disk, and how to have it back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from latentgraph.graph import DiskCache, DiskUse

from .exits import ending, print_json
from .options import AsJson, CacheDir

cache_app = typer.Typer(no_args_is_help=True, help="Look at and empty the cache of results.")


@cache_app.command()
def info(cache_dir: CacheDir = None, as_json: AsJson = False) -> None:
    """Say where the cache is and how much it holds."""
    from .engine import Engine

    with ending(as_json), Engine(cache_dir=cache_dir) as engine:
        disk = engine.disk_cache
        use = disk.use()
        if as_json:
            print_json({"folder": str(disk.folder), "results": use.entries, "bytes": use.bytes, "cap": disk.cap_bytes})
        else:
            typer.echo(
                f"{disk.folder}: {use.entries} results, {use.bytes / 1e6:.1f} MB of at most {disk.cap_bytes / 1e6:.0f} MB"
            )


@cache_app.command()
def prune(
    megabytes: Annotated[float, typer.Argument(min=0, help="How much to keep at most.")],
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Remove the results not used for longest until at most MEGABYTES are left."""
    _remove(cache_dir, lambda disk: disk.prune(int(megabytes * 1e6)), as_json)


@cache_app.command()
def clear(cache_dir: CacheDir = None, as_json: AsJson = False) -> None:
    """Remove every result."""
    _remove(cache_dir, DiskCache.clear, as_json)


def _remove(cache_dir: Path | None, remove: Callable[[DiskCache], DiskUse], as_json: bool) -> None:
    from .engine import Engine

    with ending(as_json), Engine(cache_dir=cache_dir) as engine:
        removed = remove(engine.disk_cache)
        if as_json:
            print_json({"results": removed.entries, "bytes": removed.bytes})
        else:
            typer.echo(f"removed {removed.entries} results, {removed.bytes / 1e6:.1f} MB")
