"""The model files that documents can name: which there are, and what their headers say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from latentgraph.graph import FileNotUsable, FolderResolver, LatentGraphError

from .folders import MODEL_FOLDERS
from .show import show

if TYPE_CHECKING:
    from latentgraph.server.files.resolving import ServerResolver


def model_rows(resolver: FolderResolver | ServerResolver) -> list[dict[str, Any]]:
    """Returns the model files that documents can name: name, kind, family and path, or what is wrong with one."""
    rows: list[dict[str, Any]] = []
    for kind, family_of in _readers().items():
        listed = {row["path"] for row in rows} - {None}  # a checkpoint will do as a VAE, and is listed once
        found = (_found(resolver, kind, name) for name in resolver.names(kind))
        rows += [_read(row, family_of) for row in found if row["path"] not in listed]
    return rows


def rows_of(resolver: FolderResolver, file: str) -> list[dict[str, Any]]:
    """Returns what one file, given by path or name, can be used as: like `model_rows`, a row for each kind.

    Raises LatentGraphError for one that can be used as nothing, with what is wrong with it as a checkpoint.
    """
    place = Path(file).expanduser()
    name = str(place.absolute()) if place.exists() else file
    rows = [_read(_found(resolver, kind, name), family_of) for kind, family_of in _readers().items()]
    fitting = [row for row in rows if not row["problem"]]
    if not fitting:
        raise LatentGraphError(next((row for row in rows if row["path"]), rows[0])["problem"])
    return fitting


def _found(resolver: FolderResolver | ServerResolver, kind: str, name: str) -> dict[str, Any]:
    """Returns the row of a name as far as it is known without its header: where the file is, or why there is none."""
    row: dict[str, Any] = {"name": name, "kind": kind, "path": None, "family": None, "problem": None}
    try:
        return row | {"path": str(resolver.resolve(kind, name, None))}
    except (FileNotUsable, OSError) as error:
        return row | {"problem": str(error)}


def _read(row: dict[str, Any], family_of: Callable[[Path], str | None]) -> dict[str, Any]:
    """Returns a row with what the header of its file says."""
    from latentgraph.diffusion.checkpoints.headers import HeaderError

    if row["path"] is None:
        return row
    try:
        return row | {"family": family_of(Path(row["path"]))}
    except (HeaderError, OSError) as error:
        return row | {"problem": str(error)}


def _readers() -> dict[str, Callable[[Path], str | None]]:
    """Returns for each kind of file what reads its header and returns its family."""
    from latentgraph.diffusion.adapters.files import read_adapter
    from latentgraph.diffusion.checkpoints.describe import describe, describe_network
    from latentgraph.diffusion.checkpoints.describe_text import find_encoders
    from latentgraph.diffusion.checkpoints.describe_vae import describe_vae, tiny_halves
    from latentgraph.diffusion.checkpoints.vision import describe_vision
    from latentgraph.diffusion.control.reading import describe_control
    from latentgraph.diffusion.image_prompts.reading import describe_ip_adapter
    from latentgraph.diffusion.image_prompts.redux_reading import describe_style
    from latentgraph.diffusion.text.embeddings import read_embedding
    from latentgraph.diffusion.upscaling.reading import describe_upscaler

    return {
        "checkpoint": lambda path: describe(path).family,
        "diffusion_model": lambda path: describe_network(path).model.family,
        "vae": _of_no_family(describe_vae),
        "tiny_vae": _of_no_family(tiny_halves),
        "text_encoder": lambda path: " and ".join(encoder.key for encoder in find_encoders(path)),
        "clip_vision": _of_no_family(describe_vision),
        "lora": lambda path: " or ".join(read_adapter(path).families) or None,
        "controlnet": lambda path: describe_control(path).spec.family,
        "ip_adapter": _of_no_family(describe_ip_adapter),
        "style_model": _of_no_family(describe_style),
        "upscale_model": _of_no_family(describe_upscaler),
        "embedding": _of_no_family(read_embedding),
    }


def _of_no_family(read: Callable[[Path], object]) -> Callable[[Path], None]:
    """Returns what reads a file of a kind that no family owns, for its errors."""

    def family(path: Path) -> None:
        read(path)

    return family


def show_models(console: Console, rows: list[dict[str, Any]], folder: Path) -> None:
    """Prints the model files, and where to put more."""
    show_rows(console, rows)
    for row in rows:
        if row["problem"]:
            console.print(Text.assemble(("unusable:", "bold red"), " ", row["problem"]), soft_wrap=True)
    *others, last = MODEL_FOLDERS
    words = f"Put your own below {folder}, into {', '.join(others)} or {last}, or name them by path."
    console.print(Text(words), soft_wrap=True)


def show_rows(console: Console, rows: list[dict[str, Any]]) -> None:
    """Prints model files as a table."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("name", "kind", "family"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(escape(row["name"]), row["kind"], row["family"] or ("unusable" if row["problem"] else ""))
    show(console, table)
