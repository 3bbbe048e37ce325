from __future__ import annotations

import pytest
import torch

from latentgraph.diffusion.families.specs import LatentFormat
from latentgraph.diffusion.families.stable_diffusion import SD_LATENT, SDXL_LATENT
from latentgraph.diffusion.latents.previews import preview_picture


@pytest.mark.parametrize("latent_format", [SD_LATENT, SDXL_LATENT])
def test_a_latent_of_the_mean_colour_is_grey_and_brighter_ones_are_brighter(latent_format: LatentFormat) -> None:
    grey = preview_picture(torch.zeros(4, 2, 3), latent_format)
    assert torch.equal(grey, torch.full((2, 3, 3), 127, dtype=torch.uint8))
    bright = preview_picture(torch.tensor([2.0, 0.0, 0.0, 0.0]).reshape(4, 1, 1), latent_format)
    assert (bright > 127).all()


@pytest.mark.parametrize("channels", [3, 4, 16])
def test_an_unknown_format_shows_shapes(channels: int) -> None:
    x = torch.zeros(channels, 4, 4)
    x[:, :2] = 1.0
    picture = preview_picture(x, LatentFormat(channels=channels, scale=0.7))
    assert (picture[:2, :, 0] > picture[2:, :, 0]).all()


def test_a_latent_that_went_wrong_still_gives_a_picture() -> None:
    x = torch.full((4, 2, 2), torch.nan)
    assert preview_picture(x, SD_LATENT).shape == (2, 2, 3)


def test_a_row_more_than_channels_is_added_everywhere() -> None:
    format_ = LatentFormat(channels=1, scale=1.0, colours=((0.0, 0.0, 0.0), (1.0, 0.0, -1.0)))
    assert preview_picture(torch.zeros(1, 1, 1), format_).tolist() == [[[255, 127, 0]]]
