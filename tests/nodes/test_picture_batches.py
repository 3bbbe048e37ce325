"""Nodes that make pictures of one colour and batches of pictures, and what is known and refused before a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image as Pillow

from latentgraph.diffusion.types import Image
from latentgraph.graph import Context, Graph, InvalidWorkflow, build_graph, parse_document
from latentgraph.nodes import default_registry
from latentgraph.nodes.images import SaveImage
from latentgraph.nodes.picture_batches import EmptyImage, ImageFromBatch, RepeatImage

CTX = Context()
TWO = Image(torch.rand(2, 4, 6, 3, generator=torch.Generator().manual_seed(1)))


def graph_of(last: str) -> Graph:
    text = (
        "latentgraph: 1\nnodes:\n"
        "  pic: {type: EmptyImage, width: 64, height: 48, batch_size: 3, color: 0xff8000}\n"
        f"  last: {{type: {last}}}\noutputs: {{last: $last}}\n"
    )
    return build_graph(parse_document(text), default_registry())


def test_a_colour_is_written_as_in_every_paint_program() -> None:
    pic = graph_of("InvertImage, image: $pic").nodes["pic"]
    pixels = pic.cls(**pic.literals).run(CTX).pixels
    assert pixels.shape == (3, 48, 64, 3)
    assert (255 * pixels[0, 0, 0]).round().tolist() == [255, 128, 0]


def test_a_picture_of_one_colour_can_be_saved(tmp_path: Path) -> None:
    SaveImage(image=EmptyImage(width=8, height=4, color=0x10FF20).run(CTX)).run(Context(output_dir=tmp_path))
    (path,) = tmp_path.glob("*.png")
    with Pillow.open(path) as saved:
        assert (saved.size, saved.getpixel((7, 3))) == ((8, 4), (0x10, 0xFF, 0x20))


def test_batches_are_taken_apart_and_repeated() -> None:
    assert torch.equal(ImageFromBatch(image=TWO, index=1).run(CTX).pixels, TWO.pixels[1:])
    assert torch.equal(ImageFromBatch(image=TWO, length=9).run(CTX).pixels, TWO.pixels)
    assert torch.equal(RepeatImage(image=TWO, amount=2).run(CTX).pixels, torch.cat([TWO.pixels, TWO.pixels]))


@pytest.mark.parametrize(
    ("last", "batch"),
    [
        ("ImageFromBatch, image: $pic, index: 1, length: 5", 2),
        ("ImageFromBatch, image: $pic", 1),
        ("RepeatImage, image: $pic, amount: 4", 12),
    ],
)
def test_sizes_are_known_before_a_run(last: str, batch: int) -> None:
    assert graph_of(last).nodes["last"].facts["image"] == {"width": 64, "height": 48, "batch": batch}


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("ImageFromBatch, image: $pic, index: 3", "input 'index' is 3, but input 'image' has 3 pictures, from 0 to 2"),
        ("RepeatImage, image: $pic, amount: 0", "input 'amount' is 0; expected a whole number from 1 to 4096"),
        ("EmptyImage, color: 0x1000000", "input 'color' is 16777216; expected a whole number from 0 to 16777215"),
    ],
)
def test_what_can_not_be_is_refused_before_a_run(last: str, message: str) -> None:
    with pytest.raises(InvalidWorkflow, match=message):
        graph_of(last)
