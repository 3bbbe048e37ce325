"""Pictures and latents laid over one another, against ComfyUI 0.8.0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from latentgraph.diffusion.pictures.compositing import composite_image, composite_latent, paste_latent
from latentgraph.diffusion.types import Image, Latent, Mask


def test_a_masked_picture_is_laid_as_in_the_reference(
    image_ops: dict[str, Any], picture: Callable[[int, int], Image]
) -> None:
    composite = composite_image(
        picture(8, 8),
        Image(0.5 * picture(4, 6).pixels),
        x=3,
        y=6,
        mask=Mask(torch.linspace(0, 1, 20).reshape(1, 4, 5)),
    )
    wanted = image_ops["ImageCompositeMasked 8x8 <- 0.5*img(4,6) at x=3,y=6 mask linspace 4x5"]["last24"]
    assert composite.pixels.flatten()[-24:].tolist() == pytest.approx(wanted, abs=1e-6)
    assert torch.equal(composite.pixels[:, :6], picture(8, 8).pixels[:, :6])


def test_a_feathered_latent_is_laid_as_in_the_reference(image_ops: dict[str, Any]) -> None:
    to, source = Latent(torch.zeros(1, 4, 16, 16)), Latent(torch.ones(1, 4, 8, 8))
    pasted = paste_latent(to, source, x=4, y=2, feather=3)
    wanted = image_ops["LatentComposite zeros16x16 <- ones8x8 x=32 y=16 feather=24 (row sums ch0)"]
    assert pasted.samples[0, 0].sum(dim=1).tolist() == pytest.approx(wanted, abs=1e-5)


def test_edges_at_the_border_of_the_latent_do_not_fade() -> None:
    pasted = paste_latent(Latent(torch.zeros(1, 4, 8, 8)), Latent(torch.ones(1, 4, 99, 99)), x=0, y=0, feather=3)
    assert bool((pasted.samples == 1).all())


@pytest.mark.parametrize(("x", "y", "area"), [(-2, -1, 4), (6, 7, 2), (50, 0, 0), (-4, 0, 0), (0, 0, 12)])
def test_only_the_overlap_is_covered(x: int, y: int, area: int) -> None:
    composite = composite_latent(Latent(torch.zeros(1, 1, 8, 8)), Latent(torch.ones(1, 1, 3, 4)), x=x, y=y)
    assert float(composite.samples.sum()) == area


def test_a_source_can_be_stretched_and_is_repeated_over_the_batch() -> None:
    composite = composite_image(
        Image(torch.zeros(3, 4, 4, 3)), Image(torch.ones(1, 1, 1, 3)), x=0, y=0, resize_source=True
    )
    assert bool((composite.pixels == 1).all())


def test_alpha_is_cut_or_added_as_the_destination_wants() -> None:
    opaque, clear = Image(torch.zeros(1, 2, 2, 3)), Image(torch.full((1, 2, 2, 4), 0.25))
    assert composite_image(opaque, clear, x=0, y=0).pixels.shape == (1, 2, 2, 3)
    assert composite_image(clear, opaque, x=0, y=0).pixels[0, 0, 0].tolist() == [0.0, 0.0, 0.0, 1.0]


def test_latents_of_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="the source has 16 channels and the destination 4"):
        composite_latent(Latent(torch.zeros(1, 4, 2, 2)), Latent(torch.zeros(1, 16, 2, 2)), x=0, y=0)


def test_a_feathered_mask_blends_around_it_and_leaves_the_rest_exactly() -> None:
    below, above = Image(torch.rand(1, 8, 8, 3)), Image(torch.ones(1, 8, 8, 3))
    mask = torch.zeros(1, 8, 8)
    mask[:, :, :2] = 1.0
    result = composite_image(below, above, x=0, y=0, mask=Mask(mask), feather=4).pixels
    assert torch.equal(result[:, :, :2], above.pixels[:, :, :2])
    assert torch.equal(result[:, :, 5:], below.pixels[:, :, 5:])
    torch.testing.assert_close(result[:, :, 3], 0.5 * above.pixels[:, :, 3] + 0.5 * below.pixels[:, :, 3])


@pytest.mark.parametrize(("x", "y"), [(8, 0), (0, 9), (2048, 2048)])
def test_a_latent_pasted_beside_another_leaves_it_as_it_is(x: int, y: int) -> None:
    pasted = paste_latent(Latent(torch.zeros(1, 4, 8, 8)), Latent(torch.ones(1, 4, 4, 4)), x=x, y=y, feather=2)
    assert torch.equal(pasted.samples, torch.zeros(1, 4, 8, 8))
