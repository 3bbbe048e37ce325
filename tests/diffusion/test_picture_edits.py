"""Pictures cut, joined, blended, blurred and sharpened, by cases that can be worked out."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.names import BlendMode
from latentgraph.diffusion.pictures.edits import (
    blend_images,
    blur_image,
    crop_image,
    invert_image,
    join_images,
    sharpen_image,
)
from latentgraph.diffusion.types import Image

RAMP = Image(torch.linspace(0, 1, 4 * 6 * 3).reshape(1, 4, 6, 3))


def grey(*values: float) -> Image:
    """A row of grey pixels."""
    return Image(torch.tensor(values).reshape(1, 1, -1, 1).expand(-1, -1, -1, 3))


def dot(side: int = 5) -> Image:
    pixels = torch.zeros(1, side, side, 3)
    pixels[:, side // 2, side // 2] = 1.0
    return Image(pixels)


@pytest.mark.parametrize(
    ("x", "y", "width", "height", "rows", "columns"),
    [
        (1, 2, 2, 1, slice(2, 3), slice(1, 3)),
        (4, 0, 99, 99, slice(0, 4), slice(4, 6)),
        (99, 99, 1, 1, slice(3, 4), slice(5, 6)),
    ],
)
def test_a_crop_is_the_part_that_lies_inside(
    x: int, y: int, width: int, height: int, rows: slice, columns: slice
) -> None:
    assert torch.equal(crop_image(RAMP, x=x, y=y, width=width, height=height).pixels, RAMP.pixels[:, rows, columns])


def test_a_negative_is_undone_by_another_and_keeps_alpha() -> None:
    rgba = Image(torch.cat([RAMP.pixels, torch.full((1, 4, 6, 1), 0.25)], dim=-1))
    negative = invert_image(rgba)
    assert torch.equal(negative.pixels[..., 3], rgba.pixels[..., 3])
    assert torch.equal(negative.pixels[..., :3], 1 - RAMP.pixels)
    torch.testing.assert_close(invert_image(negative).pixels, rgba.pixels)


def test_pictures_are_joined_at_the_size_of_the_first() -> None:
    joined = join_images(RAMP, Image(torch.full((2, 8, 8, 4), 0.5)))
    assert joined.pixels.shape == (3, 4, 6, 4)
    assert torch.equal(joined.pixels[0, ..., :3], RAMP.pixels[0])
    assert (joined.pixels[0, ..., 3] == 1).all()
    assert (joined.pixels[1:] == 0.5).all()


BLENDED = {  # 0.2 below and 0.8 above, and the other way round
    "normal": (0.8, 0.2),
    "multiply": (0.16, 0.16),
    "screen": (0.84, 0.84),
    "overlay": (0.32, 0.68),
    "soft_light": (0.2 + 0.6 * (((16 * 0.2 - 12) * 0.2 + 4) * 0.2 - 0.2), 0.8 - 0.6 * 0.8 * 0.2),
    "difference": (0.0, 0.6),
}


@pytest.mark.parametrize("mode", get_args(BlendMode))
def test_a_mode_makes_of_two_values_what_it_says(mode: BlendMode) -> None:
    whole = blend_images(grey(0.2, 0.8), grey(0.8, 0.2), amount=1.0, mode=mode).pixels[0, 0, :, 0]
    assert whole.tolist() == pytest.approx(BLENDED[mode], abs=1e-6)
    nothing = blend_images(grey(0.2, 0.8), grey(0.8, 0.2), amount=0.0, mode=mode)
    torch.testing.assert_close(nothing.pixels, grey(0.2, 0.8).pixels)


def test_what_is_taken_away_stays_in_range_and_half_of_it_is_half_of_the_way() -> None:
    half = blend_images(grey(0.2), grey(0.8), amount=0.5, mode="difference").pixels
    assert half[0, 0, 0, 0].item() == 0.0  # 0.1 - 0.3


def test_the_picture_above_is_fitted_and_repeated() -> None:
    below = Image(torch.zeros(3, 4, 6, 4))
    blended = blend_images(below, Image(torch.ones(1, 9, 9, 3)), amount=1.0, mode="normal").pixels
    assert blended.shape == (3, 4, 6, 4)
    torch.testing.assert_close(blended[..., :3], torch.ones(3, 4, 6, 3))
    assert (blended[..., 3] == 0).all()


def gauss(radius: int, sigma: float) -> Tensor:
    at = torch.arange(-radius, radius + 1) / radius
    row = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = row[:, None] * row
    return kernel / kernel.sum()


@pytest.mark.parametrize(("radius", "sigma"), [(1, 1.0), (2, 0.5)])
def test_a_blurred_dot_is_the_bell(radius: int, sigma: float) -> None:
    wide = blur_image(dot(4 * radius + 1), radius=radius, sigma=sigma).pixels[0, radius:-radius, radius:-radius, 0]
    torch.testing.assert_close(wide, gauss(radius, sigma))


def test_an_even_picture_stays_as_it_is() -> None:
    even = Image(torch.full((2, 5, 5, 3), 0.3))
    torch.testing.assert_close(blur_image(even, radius=2, sigma=1.0).pixels, even.pixels)
    torch.testing.assert_close(sharpen_image(even, radius=2, sigma=1.0, amount=5.0).pixels, even.pixels)


def test_sharpening_by_nothing_changes_nothing_and_by_more_steepens_an_edge() -> None:
    edge = Image(torch.tensor([0.4, 0.4, 0.6, 0.6]).reshape(1, 1, 4, 1).expand(1, 4, 4, 3))
    assert torch.equal(sharpen_image(edge, radius=1, sigma=1.0, amount=0.0).pixels, edge.pixels)
    steeper = sharpen_image(edge, radius=1, sigma=1.0, amount=0.1).pixels[0, 0, :, 0].tolist()
    weight = gauss(1, 1.0)[:, 0].sum().item()  # of the column beside
    assert steeper == pytest.approx([0.4, 0.4 - 0.2 * weight, 0.6 + 0.2 * weight, 0.6], abs=1e-6)


def test_a_radius_beyond_the_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="pictures of 6x4 pixels can't be seen over a radius of 4; give a smaller one"):
        blur_image(RAMP, radius=4, sigma=1.0)
