"""Pictures of one colour, and batches of pictures."""

from __future__ import annotations

import pytest
import torch

from latentgraph.diffusion.pictures.batches import image_from_batch, repeat_image, solid_image
from latentgraph.diffusion.types import Image

THREE = Image(torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 2, 4, 3))


def numbers(image: Image) -> list[int]:
    return image.pixels[:, 0, 0, 0].int().tolist()


def test_a_colour_is_its_red_green_and_blue() -> None:
    pixels = solid_image(0xFF8000, width=4, height=2, batch_size=3).pixels
    assert pixels.shape == (3, 2, 4, 3)
    assert pixels.dtype == torch.float32
    assert (pixels == torch.tensor([1.0, 128 / 255, 0.0])).all()


@pytest.mark.parametrize("color", [-1, 0x1000000])
def test_a_number_that_is_no_colour_is_an_error(color: int) -> None:
    with pytest.raises(ValueError, match=f"{color} is no colour; give 0xRRGGBB, from 0 to 0xffffff"):
        solid_image(color, width=1, height=1)


@pytest.mark.parametrize(
    ("index", "length", "taken"), [(0, 1, [0]), (1, 2, [1, 2]), (1, 9, [1, 2]), (9, 1, [2]), (0, 3, [0, 1, 2])]
)
def test_pictures_are_taken_within_their_batch(index: int, length: int, taken: list[int]) -> None:
    assert numbers(image_from_batch(THREE, index, length)) == taken


def test_a_batch_is_repeated_as_a_whole() -> None:
    assert numbers(repeat_image(THREE, 2)) == [0, 1, 2, 0, 1, 2]


def test_what_can_not_be_counted_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot take 1 pictures from number -1 on"):
        image_from_batch(THREE, -1)
    with pytest.raises(ValueError, match="cannot repeat pictures 0 times"):
        repeat_image(THREE, 0)
