"""Latents cut, turned, joined and mixed, by cases that can be worked out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.latents.batches import empty_latent
from latentgraph.diffusion.latents.edits import (
    add_latents,
    blend_latents,
    crop_latent,
    flip_latent,
    join_latents,
    multiply_latent,
    rotate_latent,
)
from latentgraph.diffusion.types import Latent


def numbered(h: int, w: int, *, items: int = 1) -> Tensor:
    return torch.arange(items * 4.0 * h * w).reshape(items, 4, h, w)


def masked(h: int, w: int, *, cell: int = 8) -> Latent:
    """A latent whose noise mask, in pixels, tells for each cell the number of its first channel."""
    samples = numbered(h, w)
    mask = samples[:, :1].repeat_interleave(cell, dim=-1).repeat_interleave(cell, dim=-2)
    return Latent(samples, noise_mask=mask, batch_index=(3,), cell=cell)


def cells_of_mask(latent: Latent) -> Tensor:
    assert latent.noise_mask is not None
    h, w = latent.samples.shape[-2:]
    return latent.noise_mask[..., :: latent.noise_mask.shape[-2] // h, :: latent.noise_mask.shape[-1] // w]


@pytest.mark.parametrize(
    ("x", "y", "width", "height", "rows", "columns"),
    [
        (1, 2, 2, 1, slice(2, 3), slice(1, 3)),
        (4, 0, 99, 99, slice(0, 4), slice(4, 6)),
        (99, 99, 9, 9, slice(2, 4), slice(4, 6)),
    ],
)
def test_a_crop_is_the_part_that_lies_inside_and_keeps_a_least(
    x: int, y: int, width: int, height: int, rows: slice, columns: slice
) -> None:
    whole = masked(4, 6)
    part = crop_latent(whole, x=x, y=y, width=width, height=height, least=2)
    assert torch.equal(part.samples, whole.samples[..., rows, columns])
    assert torch.equal(cells_of_mask(part), part.samples[:, :1])
    assert (part.batch_index, part.cell) == ((3,), 8)


def test_a_latent_smaller_than_the_least_is_cropped_from_its_corner() -> None:
    assert torch.equal(crop_latent(masked(4, 6), x=3, y=3, width=9, height=9, least=8).samples, numbered(4, 6))


def test_a_mask_of_another_size_is_cut_where_sampling_would_lay_it() -> None:
    whole = Latent(numbered(2, 4), noise_mask=torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))
    part = crop_latent(whole, x=2, y=0, width=2, height=1)
    assert part.noise_mask is not None
    assert part.noise_mask.tolist() == [[[[0.75, 1.0]]]]


@pytest.mark.parametrize(("direction", "side"), [("horizontal", 3), ("vertical", 2)])
def test_a_flip_takes_the_mask_along_and_is_undone_by_another(direction: str, side: int) -> None:
    whole = masked(4, 6)
    flipped = flip_latent(whole, direction)  # type: ignore[arg-type]
    assert torch.equal(flipped.samples, whole.samples.flip(side))
    assert torch.equal(cells_of_mask(flipped), flipped.samples[:, :1])
    assert torch.equal(flip_latent(flipped, direction).samples, whole.samples)  # type: ignore[arg-type]


def test_a_latent_is_turned_clockwise_with_its_mask() -> None:
    turned = rotate_latent(masked(2, 3), 90)
    assert turned.samples[0, 0].tolist() == [[3, 0], [4, 1], [5, 2]]
    assert torch.equal(cells_of_mask(turned), turned.samples[:, :1])
    assert torch.equal(rotate_latent(turned, 270).samples, numbered(2, 3))
    assert torch.equal(rotate_latent(turned, 90).samples, rotate_latent(masked(2, 3), 180).samples)
    assert torch.equal(rotate_latent(turned, 0).samples, turned.samples)


def test_a_turn_that_is_no_quarter_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot turn a latent by 45 degrees; give a multiple of 90"):
        rotate_latent(masked(2, 2), 45)


def test_joined_latents_keep_their_draws_of_the_noise() -> None:
    first, second = Latent(numbered(2, 2, items=2)), Latent(-numbered(2, 2, items=2), batch_index=(1, 7))
    joined = join_latents(first, second)
    assert torch.equal(joined.samples, torch.cat([first.samples, second.samples]))
    assert joined.batch_index == (0, 1, 1, 7)
    assert joined.noise_mask is None
    assert join_latents(first, first).batch_index == (0, 1, 0, 1)


def test_latents_are_joined_at_the_size_of_the_first_with_the_masks_of_both() -> None:
    first = Latent(numbered(4, 4, items=2))
    wide = Latent(torch.cat([numbered(4, 4), numbered(4, 4), numbered(4, 4)], dim=-1))
    assert torch.equal(join_latents(first, wide).samples[2:], numbered(4, 4))  # cut to the middle
    left = torch.zeros(1, 1, 32, 32)
    left[..., :16] = 1.0
    joined = join_latents(first, Latent(numbered(4, 4), noise_mask=left)).noise_mask
    assert joined is not None
    assert joined[:, 0, 0].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]
    whole = join_latents(
        Latent(numbered(4, 4, items=2), noise_mask=left), Latent(numbered(4, 4), noise_mask=1 - left)
    ).noise_mask
    assert whole is not None
    assert torch.equal(whole, torch.cat([left, left, 1 - left]))


def test_a_blend_of_values_is_their_mean_by_the_ratio() -> None:
    first, second = Latent(numbered(2, 2, items=3), noise_mask=torch.ones(1, 1, 2, 2)), Latent(-numbered(2, 2))
    blended = blend_latents(first, second, ratio=0.25)
    torch.testing.assert_close(blended.samples, first.samples * 0.25 + second.samples.expand(3, -1, -1, -1) * 0.75)
    assert blended.noise_mask is first.noise_mask


def test_a_blend_of_directions_mixes_length_and_direction_of_each_item_apart() -> None:
    east, north = torch.tensor([2.0, 0.0, 0.0, 0.0]), torch.tensor([0.0, 6.0, 0.0, 0.0])
    first = Latent(torch.stack([east, north, north * 0]).reshape(3, 4, 1, 1))
    second = Latent(north.reshape(1, 4, 1, 1))
    mixed = blend_latents(first, second, ratio=0.5, mode="directions").samples[..., 0, 0]
    half = 0.5**0.5
    torch.testing.assert_close(mixed[0], torch.tensor([4 * half, 4 * half, 0.0, 0.0]))
    torch.testing.assert_close(mixed[1], north)
    torch.testing.assert_close(mixed[2], north / 2)  # what is empty has no direction


@pytest.mark.parametrize("mode", ["values", "directions"])
def test_the_ends_of_a_blend_are_its_latents(mode: str) -> None:
    first, second = Latent(numbered(2, 3)), Latent(1 - numbered(2, 3))
    for ratio, end in ((1.0, first), (0.0, second)):
        torch.testing.assert_close(blend_latents(first, second, ratio=ratio, mode=mode).samples, end.samples)  # type: ignore[arg-type]


def test_latents_are_added_taken_away_and_multiplied() -> None:
    first, second = Latent(numbered(2, 2, items=2)), Latent(numbered(2, 2))
    both = add_latents(first, second)
    assert torch.equal(both.samples[0], 2 * numbered(2, 2)[0])
    assert torch.equal(add_latents(both, second, factor=-1.0).samples, first.samples)
    assert torch.equal(multiply_latent(first, -2.0).samples, first.samples * -2)


def test_an_empty_latent_goes_with_any_format_and_other_channels_do_not() -> None:
    sixteen = Latent(torch.ones(1, 16, 4, 4))
    assert torch.equal(add_latents(sixteen, empty_latent(width=64, height=64)).samples, sixteen.samples)
    assert join_latents(sixteen, empty_latent(width=64, height=64, batch_size=2)).samples.shape == (3, 16, 4, 4)
    with pytest.raises(ValueError, match="a latent with 4 channels does not go with one with 16"):
        add_latents(sixteen, Latent(numbered(4, 4)))
