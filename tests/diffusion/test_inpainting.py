"""Pictures and masks made ready for inpainting, against ComfyUI 0.8.0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from latentgraph.diffusion.pictures.inpainting import fill_masked, grow_noise_mask, pad_for_outpaint
from latentgraph.diffusion.pictures.masks import solid_mask
from latentgraph.diffusion.types import Image


def test_a_border_is_added_as_in_the_reference(image_ops: dict[str, Any], picture: Callable[[int, int], Image]) -> None:
    wanted = image_ops["ImagePadForOutpaint(10x12; l3 t0 r2 b4 feather3)"]
    image, mask = pad_for_outpaint(picture(10, 12), left=3, right=2, bottom=4, feathering=3)
    assert list(image.pixels.shape) == wanted["image_shape"]
    assert float(image.pixels[0, 13, 0, 0]) == wanted["pad_value"]
    assert torch.equal(image.pixels[:, :10, 3:15], picture(10, 12).pixels)
    torch.testing.assert_close(mask.values[0], torch.tensor(wanted["mask_rows"]))


def test_a_ramp_that_does_not_fit_twice_is_left_out(picture: Callable[[int, int], Image]) -> None:
    _, mask = pad_for_outpaint(picture(10, 12), left=3, feathering=5)
    assert mask.values[0].unique(dim=0).tolist() == [[1.0] * 3 + [0.0] * 12]


def test_without_a_border_nothing_is_masked(picture: Callable[[int, int], Image]) -> None:
    image, mask = pad_for_outpaint(picture(10, 12), feathering=3)
    assert image.pixels.shape == (1, 10, 12, 3)
    assert not mask.values.any()


def test_a_negative_border_is_refused(picture: Callable[[int, int], Image]) -> None:
    with pytest.raises(ValueError, match="top is -8; a border has at least 0 pixels"):
        pad_for_outpaint(picture(10, 12), top=-8)


@pytest.mark.parametrize("grow", [0, 6, 7])
def test_masked_pixels_turn_grey_and_the_mask_grows_as_in_the_reference(
    grow: int, image_ops: dict[str, Any], picture: Callable[[int, int], Image]
) -> None:
    wanted = image_ops[f"VAEEncodeForInpaint 67x45 grow={grow}"]
    mask = solid_mask(0.0, width=45, height=67)
    mask.values[0, 20:33, 10:19] = 1.0  # 13 x 9 before the crop by (1, 2), less a row that rounds to 0
    mask.values[0, 26, :] = 0.5
    image, cropped = fill_masked(picture(67, 45), mask)
    assert list(image.pixels.shape) == wanted["encoded_shape"]
    assert int((image.pixels == 0.5).all(dim=-1).sum()) == wanted["gray_pixels"]
    assert float(cropped.values[0, 25, 0]) == 0.5
    noise_mask = grow_noise_mask(cropped, pixels=grow)
    assert list(noise_mask.shape) == wanted["noise_mask_shape"]
    assert float(noise_mask.sum()) == wanted["sum"]
    rows, columns = noise_mask[0, 0].nonzero(as_tuple=True)
    box = [int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())]
    assert box == wanted["bbox_y0y1x0x1"]


def test_a_mask_of_another_size_is_stretched_to_the_picture(picture: Callable[[int, int], Image]) -> None:
    image, mask = fill_masked(picture(16, 24), solid_mask(1.0, width=2, height=2))
    assert mask.values.shape == (1, 16, 24)
    assert bool((image.pixels == 0.5).all())
