"""What a run gave, for people: files on disk for the command, Pillow images for Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentgraph.graph import Graph, Link, RunResult


def saved_files(graph: Graph, result: RunResult) -> dict[str, tuple[Path, ...]]:
    """Returns by output name the files that nodes of the document saved of it; an output that none saved is left out."""
    saved: dict[Link | tuple[Link, ...], tuple[Path, ...]] = {}
    for id, node in graph.nodes.items():
        files = result.nodes[id].files
        for links in node.links.values() if files else ():
            if not isinstance(links, Mapping):
                saved[links] = saved.get(links, ()) + files
    return {name: saved[graph.outputs[name]] for name in result.outputs if graph.outputs[name] in saved}


def save_output(name: str, value: Any, folder: Path, provenance: Mapping[str, str]) -> tuple[Path, ...]:
    """Saves the pictures of an output under its name and returns their files; none for a value that is no picture."""
    from latentgraph.diffusion.pictures.saving import save_pictures

    return tuple(
        path for picture in _pictures(value) for path in save_pictures(picture, folder, prefix=name, text=provenance)
    )


def as_pillow(value: Any) -> Any:
    """Returns pictures and masks as Pillow images, a list for several; anything else as it is."""
    pictures = _pictures(value)
    if not pictures:
        return value
    from PIL import Image as Pillow

    from latentgraph.diffusion.pictures.files import to_8bit

    arrays = [array for picture in pictures for array in to_8bit(picture.pixels)]
    images = [Pillow.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array) for array in arrays]
    return images[0] if len(images) == 1 and not isinstance(value, list) else images


def _pictures(value: Any) -> list[Any]:
    """Returns a value's pictures; masks become grey pictures; anything else has none."""
    from latentgraph.diffusion.types import Image, Mask

    if isinstance(value, list):
        return [picture for item in value for picture in _pictures(item)]
    if isinstance(value, Mask):
        return [Image(value.values.unsqueeze(-1))]
    return [value] if isinstance(value, Image) else []
