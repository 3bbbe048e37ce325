"""Nodes that edit pictures: what they make, and what is known and refused before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pillow

from latentgraph.diffusion.types import Image
from latentgraph.graph import Context, FolderResolver, Graph, InvalidWorkflow, build_graph, parse_document
from latentgraph.nodes import default_registry
from latentgraph.nodes.picture_edits import BlendImages, BlurImage, CropImage, InvertImage, JoinImages, SharpenImage

PICTURE = Image(torch.linspace(0, 1, 8 * 8 * 3).reshape(1, 8, 8, 3))
CTX = Context()


@pytest.mark.parametrize(
    ("node", "batch", "size"),
    [
        (CropImage(image=PICTURE, width=5, height=3, x=1), 1, (3, 5)),
        (InvertImage(image=PICTURE), 1, (8, 8)),
        (JoinImages(first=PICTURE, second=PICTURE), 2, (8, 8)),
        (BlendImages(image=PICTURE, other=PICTURE, mode="multiply"), 1, (8, 8)),
        (BlurImage(image=PICTURE, radius=3), 1, (8, 8)),
        (SharpenImage(image=PICTURE, amount=0.5), 1, (8, 8)),
    ],
)
def test_a_node_gives_other_pictures(node: Any, batch: int, size: tuple[int, int]) -> None:
    pixels = node.run(CTX).pixels
    assert pixels.shape == (batch, *size, 3)
    assert torch.equal(pixels[:1, :3, :3], PICTURE.pixels[:, :3, :3]) == (batch == 2)
    assert torch.equal(PICTURE.pixels, torch.linspace(0, 1, 8 * 8 * 3).reshape(1, 8, 8, 3))


def graph_of(last: str, folder: Path) -> Graph:
    Pillow.new("RGB", (64, 48)).save(folder / "a.png")
    text = f"latentgraph: 1\nnodes:\n  pic: {{type: LoadImage, file: {folder / 'a.png'}}}\n  last: {{type: {last}}}\n"
    return build_graph(
        parse_document(f"{text}outputs: {{last: $last}}\n"), default_registry(), resolver=FolderResolver({})
    )


@pytest.mark.parametrize(
    ("last", "width", "height"),
    [
        ("CropImage, image: $pic.image, x: 60, width: 10, height: 20", 4, 20),
        ("JoinImages, first: $pic.image, second: $pic.image", 64, 48),
        ("BlurImage, image: $pic.image, radius: 31", 64, 48),
    ],
)
def test_sizes_are_known_before_a_run(last: str, width: int, height: int, tmp_path: Path) -> None:
    (facts,) = graph_of(last, tmp_path).nodes["last"].facts.values()
    assert (facts["width"], facts["height"]) == (width, height)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("CropImage, image: $pic.image, x: 64", "input 'x' is 64, outside of input 'image', which is 64x48"),
        ("CropImage, image: $pic.image, y: 50", "input 'y' is 50, outside of input 'image', which is 64x48"),
        ("BlurImage, image: $pic.image, radius: 32", "input 'radius' is 32; expected a whole number from 1 to 31"),
    ],
)
def test_what_lies_outside_is_refused_before_a_run(last: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidWorkflow, match=message):
        graph_of(last, tmp_path)


@pytest.mark.parametrize("node", ["BlurImage", "SharpenImage"])
def test_a_radius_that_a_picture_is_too_small_for_is_refused_before_a_run(node: str, tmp_path: Path) -> None:
    small = "CropImage, image: $pic.image, width: 3, height: 9}\n  end: {type: " + node + ", image: $last, radius: 3"
    with pytest.raises(
        InvalidWorkflow, match="input 'radius' is 3, but input 'image' is 3x9; give one below its shorter"
    ):
        graph_of(small, tmp_path)
