"""Pictures read, changed and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pillow

from latentgraph.diffusion.types import Image, Mask
from latentgraph.graph import Context, InvalidWorkflow, build_graph, load_document
from latentgraph.nodes import default_registry
from latentgraph.nodes.images import (
    CompositeMasked,
    GridImage,
    LoadImage,
    PadForOutpaint,
    SaveImage,
    ScaleImage,
    ScaleImageBy,
    ScaleImageToMegapixels,
)

CTX = Context()
GREY = Image(torch.full((1, 6, 8, 3), 0.4))
WHITE = Image(torch.ones(1, 6, 8, 3))


def test_the_transparency_of_a_picture_is_its_mask(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    Pillow.new("RGBA", (8, 6), (255, 0, 0, 51)).save(path)
    loaded = LoadImage(file=path).run(CTX)
    assert loaded.image.pixels.shape == (1, 6, 8, 3)
    assert loaded.mask.values.unique().tolist() == pytest.approx([0.8])


def test_a_picture_is_cut_around_its_middle_to_whole_cells_with_its_mask(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    picture = Pillow.new("RGBA", (21, 10), (255, 0, 0, 255))
    picture.putpixel((2, 1), (0, 255, 0, 0))  # the first that is left
    picture.save(path)
    loaded = LoadImage(file=path, multiple_of=8).run(CTX)
    assert loaded.image.pixels.shape == (1, 8, 16, 3)
    assert loaded.mask.values.nonzero().tolist() == [[0, 0, 0]]


def test_a_picture_without_a_whole_cell_is_refused_before_a_run(tmp_path: Path) -> None:
    Pillow.new("RGB", (21, 6)).save(tmp_path / "flat.png")
    nodes = "{a: {type: LoadImage, file: flat.png, multiple_of: 8}, b: {type: SaveImage, image: $a.image}}"
    (tmp_path / "flat.yaml").write_text(f"latentgraph: 1\nnodes: {nodes}")
    with pytest.raises(
        InvalidWorkflow,
        match="is a picture of 21x6, and input 'multiple_of' cuts it to multiples of 8; its sides must be at least 8 pixels",
    ):
        build_graph(load_document(tmp_path / "flat.yaml"), default_registry())


def test_a_mask_that_shows_nothing_is_warned_of(watched: Any) -> None:
    ctx = watched()
    node = CompositeMasked(destination=GREY, source=WHITE, mask=Mask(torch.zeros(1, 6, 8)))
    assert torch.equal(node.run(ctx).pixels, GREY.pixels)
    assert "the mask is 0 everywhere" in ctx.warnings[0]


def test_saved_pictures_are_numbered_told_and_carry_how_they_were_made(tmp_path: Path, watched: Any) -> None:
    ctx = watched(output_dir=tmp_path, provenance={"latentgraph": "made so"})
    SaveImage(image=Image(torch.rand(2, 6, 8, 3)), prefix="cats/cat").run(ctx)
    assert [path.relative_to(tmp_path).as_posix() for path in ctx.files] == [
        "cats/cat_00001_.png",
        "cats/cat_00002_.png",
    ]
    with Pillow.open(ctx.files[0]) as picture:
        assert picture.size == (8, 6)
        assert picture.info["latentgraph"] == "made so"


def test_pictures_are_scaled() -> None:
    assert ScaleImage(image=GREY, width=4, height=0).run(CTX).pixels.shape == (1, 3, 4, 3)
    assert ScaleImage(image=GREY, width=5, height=5, crop="center").run(CTX).pixels.shape == (1, 5, 5, 3)
    assert ScaleImageBy(image=GREY, factor=2).run(CTX).pixels.shape == (1, 12, 16, 3)
    scaled = ScaleImageToMegapixels(image=GREY, megapixels=0.01, multiple=8, method="area").run(CTX)
    assert scaled.pixels.shape == (1, 88, 120, 3)


def test_a_border_is_added_with_a_mask_for_it() -> None:
    padded = PadForOutpaint(image=GREY, left=8, bottom=16, feathering=0).run(CTX)
    assert padded.image.pixels.shape == (1, 22, 16, 3)
    assert padded.mask.values.sum() == 22 * 16 - 6 * 8
    assert padded.image.pixels[0, 0, 0].tolist() == [0.5] * 3


def test_a_picture_is_laid_over_another_through_a_mask() -> None:
    mask = Mask(torch.zeros(1, 6, 8))
    mask.values[:, 2, 3] = 1.0
    laid = CompositeMasked(destination=GREY, source=WHITE, x=1, y=-1, mask=mask).run(CTX).pixels
    assert (laid[..., 0] == 1).nonzero().tolist() == [[0, 1, 4]]


def test_without_a_mask_the_whole_picture_is_laid_over_and_can_be_stretched() -> None:
    small = Image(torch.ones(1, 2, 2, 3))
    assert (CompositeMasked(destination=GREY, source=small).run(CTX).pixels[..., 0] == 1).sum() == 4
    assert (CompositeMasked(destination=GREY, source=small, resize_source=True).run(CTX).pixels == 1).all()


def test_a_sheet_has_rows_and_gaps() -> None:
    sheet = GridImage(images=[GREY, WHITE, Image(torch.ones(1, 6, 8, 3))], columns=2, gap=1).run(CTX)
    assert sheet.pixels.shape == (1, 13, 17, 3)
    assert sheet.pixels[0, 6].max() == 0
