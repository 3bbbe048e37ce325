"""Masks from masks, against ComfyUI 0.8.0."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from latentgraph.diffusion.names import MaskOperation
from latentgraph.diffusion.pictures.masks import (
    composite_mask,
    crop_mask,
    fade_mask,
    feather_mask,
    grow_mask,
    invert_mask,
    solid_mask,
    threshold_mask,
)
from latentgraph.diffusion.types import Mask

GROW_KEY = "GrowMask (9x9: 1 at y4x4, .5 at y2x3; for -1 the inverse)"
COMPOSITE_KEY = "MaskComposite dest=arange(36)/35 6x6, src=linspace(0,1,12) 3x4 at x3 y2"
DESTINATION = Mask((torch.arange(36) / 35).reshape(1, 6, 6))


@pytest.mark.parametrize(("pixels", "tapered"), [(1, True), (2, True), (2, False), (-1, True)])
def test_growing_is_that_of_the_reference(pixels: int, tapered: bool, image_ops: dict[str, Any]) -> None:
    mask = solid_mask(0.0, width=9, height=9)
    mask.values[0, 4, 4], mask.values[0, 2, 3] = 1.0, 0.5
    mask = mask if pixels > 0 else invert_mask(mask)
    grown = grow_mask(mask, pixels=pixels, tapered_corners=tapered)
    assert torch.equal(grown.values[0], torch.tensor(image_ops[GROW_KEY][f"expand={pixels} tapered={tapered}"]))


def test_growing_by_nothing_changes_nothing() -> None:
    assert torch.equal(grow_mask(DESTINATION, pixels=0).values, DESTINATION.values)


def test_feathering_is_that_of_the_reference(image_ops: dict[str, Any]) -> None:
    feathered = feather_mask(solid_mask(1.0, width=8, height=6), left=2, top=1, right=3, bottom=2)
    wanted = torch.tensor(image_ops["FeatherMask(ones 6x8, left2 top1 right3 bottom2)"])
    torch.testing.assert_close(feathered.values[0], wanted)


def test_feathering_more_than_the_mask_has_is_limited_to_it() -> None:
    assert feather_mask(solid_mask(1.0, width=2, height=1), left=100).values[0, 0].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("operation", ["multiply", "add", "subtract", "and", "or", "xor"])
def test_compositing_is_that_of_the_reference(operation: MaskOperation, image_ops: dict[str, Any]) -> None:
    source = Mask(torch.linspace(0, 1, 12).reshape(1, 3, 4))
    composite = composite_mask(DESTINATION, source, x=3, y=2, operation=operation)
    assert composite.values.flatten().tolist() == pytest.approx(image_ops[COMPOSITE_KEY][operation], abs=1e-6)


@pytest.mark.parametrize(("x", "y", "overlap"), [(-2, -1, (2, 2)), (4, 5, (1, 2)), (9, 0, (0, 0)), (-4, 0, (0, 0))])
def test_what_sticks_out_of_the_destination_is_cut(x: int, y: int, overlap: tuple[int, int]) -> None:
    composite = composite_mask(
        solid_mask(0.0, width=6, height=6), solid_mask(1.0, width=4, height=3), x=x, y=y, operation="add"
    )
    assert float(composite.values.sum()) == overlap[0] * overlap[1]


def test_a_composite_leaves_its_inputs_alone() -> None:
    before = DESTINATION.values.clone()
    composite_mask(DESTINATION, solid_mask(1.0, width=2, height=2), x=0, y=0, operation="subtract")
    feather_mask(DESTINATION, left=3)
    assert torch.equal(DESTINATION.values, before)


def test_an_unknown_operation_is_answered_with_a_near_one() -> None:
    operation: Any = "substract"
    with pytest.raises(ValueError, match=r"unknown mask operation 'substract'\. Did you mean 'subtract'"):
        composite_mask(DESTINATION, DESTINATION, x=0, y=0, operation=operation)


def test_a_threshold_is_exclusive() -> None:
    mask = Mask(torch.tensor([[[0.0, 0.5, 0.51]]]))
    assert threshold_mask(mask, value=0.5).values.tolist() == [[[0.0, 0.0, 1.0]]]


def test_a_crop_stays_inside_the_mask() -> None:
    assert crop_mask(DESTINATION, x=4, y=1, width=9, height=2).values.shape == (1, 2, 2)
    assert crop_mask(DESTINATION, x=99, y=99, width=5, height=5).values.tolist() == [[[1.0]]]


def test_a_faded_border_falls_to_0_around_the_mask_and_leaves_the_inside_alone() -> None:
    values = torch.zeros(2, 9, 9)
    values[0, 4, 4] = 1.0
    values[1, 0, 0] = 0.4  # nowhere above a half: nothing to fade from
    faded = fade_mask(Mask(values), pixels=4).values
    torch.testing.assert_close(faded[0, 4], torch.tensor([0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0]))
    assert faded[0, 3, 3].item() == pytest.approx(1 - 2**0.5 / 4)
    assert torch.equal(faded[1], values[1])
    assert fade_mask(Mask(values), pixels=0).values is values
