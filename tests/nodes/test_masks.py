"""Masks made and changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image as Pillow

from latentgraph.diffusion.types import Image, Mask
from latentgraph.graph import Context
from latentgraph.nodes.masks import (
    CompositeMask,
    CropMask,
    FeatherMask,
    GrowMask,
    ImageFromMask,
    InvertMask,
    LoadMask,
    MaskFromImage,
    ScaleMask,
    SolidMask,
    ThresholdMask,
)

CTX = Context()
POINT = Mask(torch.zeros(1, 5, 5))
POINT.values[0, 2, 2] = 1.0


@pytest.mark.parametrize(("channel", "value"), [("red", 1.0), ("green", 0.2), ("alpha", 0.6)])
def test_a_channel_of_a_picture_is_a_mask(channel: str, value: float, tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Pillow.new("RGBA", (4, 3), (255, 51, 0, 102)).save(path)
    values = LoadMask(file=path, channel=channel).run(CTX).values  # type: ignore[arg-type]
    assert values.shape == (1, 3, 4)
    assert values.unique().tolist() == pytest.approx([value])


def test_a_channel_of_a_loaded_picture_is_a_mask_and_a_mask_a_picture() -> None:
    picture = Image(torch.tensor([0.1, 0.2, 0.3]).expand(1, 2, 4, 3))
    mask = MaskFromImage(image=picture, channel="blue").run(CTX)
    assert torch.equal(mask.values, torch.full((1, 2, 4), 0.3))
    assert torch.equal(ImageFromMask(mask=mask).run(CTX).pixels, torch.full((1, 2, 4, 3), 0.3))


def test_an_opaque_picture_has_no_alpha() -> None:
    with pytest.raises(ValueError, match="3 channels and no alpha"):
        MaskFromImage(image=Image(torch.zeros(1, 2, 4, 3)), channel="alpha").run(CTX)


def test_a_mask_is_scaled_like_its_picture() -> None:
    half = Mask(torch.cat([torch.ones(1, 4, 4), torch.zeros(1, 4, 4)], dim=2))
    scaled = ScaleMask(mask=half, width=4, height=0, method="area").run(CTX).values
    assert scaled.tolist() == [[[1, 1, 0, 0]] * 2]


def test_a_mask_of_one_value_is_inverted() -> None:
    solid = SolidMask(value=0.25, width=4, height=3).run(CTX)
    assert solid.values.shape == (1, 3, 4)
    assert InvertMask(mask=solid).run(CTX).values.unique().tolist() == [0.75]


@pytest.mark.parametrize(("pixels", "tapered", "area"), [(1, True, 5), (1, False, 9), (-1, True, 0), (0, True, 1)])
def test_a_mask_grows_and_shrinks(pixels: int, tapered: bool, area: int) -> None:
    assert GrowMask(mask=POINT, pixels=pixels, tapered_corners=tapered).run(CTX).values.sum() == area


def test_a_mask_fades_towards_the_side_that_is_named() -> None:
    ones = Mask(torch.ones(1, 4, 4))
    assert FeatherMask(mask=ones, left=2).run(CTX).values[0, 0].tolist() == [0.5, 1, 1, 1]
    assert FeatherMask(mask=ones, top=4).run(CTX).values[0, :, 0].tolist() == [0.25, 0.5, 0.75, 1]


def test_a_soft_mask_becomes_hard() -> None:
    soft = Mask(torch.tensor([[[0.2, 0.5, 0.51]]]))
    assert ThresholdMask(mask=soft).run(CTX).values.tolist() == [[[0, 0, 1]]]


def test_a_mask_is_cropped() -> None:
    cropped = CropMask(mask=POINT, x=2, y=1, width=2, height=9).run(CTX).values
    assert cropped.tolist() == [[[0, 0], [1, 0], [0, 0], [0, 0]]]


def test_masks_are_combined_at_a_place() -> None:
    source = Mask(torch.ones(1, 2, 2))
    combined = CompositeMask(destination=POINT, source=source, x=2, y=2, operation="xor").run(CTX).values
    assert combined[0].nonzero().tolist() == [[2, 3], [3, 2], [3, 3]]
