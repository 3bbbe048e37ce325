"""How close pictures are, in dB."""

from __future__ import annotations

import pytest
import torch

from latentgraph.diffusion.pictures.differences import SAME, psnr
from latentgraph.diffusion.types import Image

GREY = Image(torch.full((1, 4, 6, 3), 0.5))


def test_a_difference_of_a_tenth_everywhere_is_20_db() -> None:
    assert psnr(GREY, Image(GREY.pixels + 0.1)) == pytest.approx(20.0, abs=1e-4)


def test_equal_pictures_have_the_highest_value_and_alpha_does_not_count() -> None:
    transparent = Image(torch.cat([GREY.pixels, torch.zeros(1, 4, 6, 1)], dim=-1))
    assert psnr(GREY, GREY) == psnr(GREY, transparent) == SAME


def test_one_picture_is_compared_with_each_of_a_batch() -> None:
    batch = Image(torch.cat([GREY.pixels, GREY.pixels + 0.1]))
    assert psnr(GREY, batch) == pytest.approx(23.0103, abs=1e-3)  # half of the mean squared difference


def test_pictures_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="6x4 and 6x5 pixels"):
        psnr(GREY, Image(torch.zeros(1, 5, 6, 3)))
    with pytest.raises(ValueError, match="batches of 2 and 3"):
        psnr(Image(GREY.pixels.repeat(2, 1, 1, 1)), Image(GREY.pixels.repeat(3, 1, 1, 1)))
