"""Latents by themselves. What their batches remember is checked against ComfyUI 0.8.0 in noise.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from latentgraph.diffusion.families.specs import LatentFormat
from latentgraph.diffusion.latents.batches import (
    empty_latent,
    fit_batch,
    fit_empty,
    latent_from_batch,
    repeat_latent,
    scale_latent,
    set_noise_mask,
    to_model_space,
    to_vae_space,
)
from latentgraph.diffusion.networks.exhaustion import OutOfMemoryError
from latentgraph.diffusion.types import Latent, Mask

NOISE = json.loads((Path(__file__).parents[1] / "vectors" / "noise.json").read_text("utf-8"))
FOUR = Latent(torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 4, 8, 8))


def numbers(latent: Latent) -> list[int]:
    return latent.samples[:, 0, 0, 0].int().tolist()


def test_an_empty_latent_has_a_cell_for_eight_pixels() -> None:
    samples = empty_latent(width=71, height=96, batch_size=2).samples
    assert samples.shape == (2, 4, 12, 8)
    assert not samples.any()


def test_a_picture_smaller_than_a_cell_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1 of at least 8x8"):
        empty_latent(width=7, height=64)


def test_more_latents_than_memory_holds_are_refused_with_numbers() -> None:
    with pytest.raises(
        OutOfMemoryError, match=r"^4096 latents of 16384x16384 pixels take 256\.00 GiB of memory, and .* free"
    ):
        empty_latent(width=16384, height=16384, batch_size=4096)


def test_items_out_of_a_batch_remember_their_draws_as_in_the_reference() -> None:
    taken = latent_from_batch(FOUR, 2, 5)
    assert list(taken.batch_index or ()) == NOISE["LatentFromBatch(batch 4, index 2, length 5).batch_index"]
    assert numbers(taken) == [2, 3]
    repeated = repeat_latent(taken, 3)
    assert list(repeated.batch_index or ()) == NOISE["RepeatLatentBatch(that,3).batch_index"]
    assert numbers(repeated) == NOISE["...samples ids"]


def test_a_repeated_latent_without_draws_gets_none() -> None:
    assert repeat_latent(FOUR, 2).batch_index is None


def test_items_out_of_a_batch_of_chosen_draws_keep_theirs() -> None:
    chosen = Latent(FOUR.samples, batch_index=(7, 7, 5, 9))
    assert latent_from_batch(chosen, 1, 2).batch_index == (7, 5)


def test_a_mask_for_each_item_goes_along_and_one_for_all_stays() -> None:
    each = Latent(FOUR.samples, noise_mask=torch.arange(4.0).reshape(4, 1, 1, 1))
    one = Latent(FOUR.samples, noise_mask=torch.ones(1, 1, 8, 8))
    taken = latent_from_batch(each, 2, 2).noise_mask
    assert taken is not None
    assert taken.flatten().tolist() == [2, 3]
    repeated = repeat_latent(each, 2).noise_mask
    assert repeated is not None
    assert repeated.flatten().tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert latent_from_batch(one, 2, 2).noise_mask is one.noise_mask
    assert repeat_latent(one, 2).noise_mask is one.noise_mask


def test_a_mask_is_kept_at_its_own_size() -> None:
    mask = Mask(torch.rand(2, 64, 48))
    noise_mask = set_noise_mask(FOUR, mask).noise_mask
    assert noise_mask is not None
    assert torch.equal(noise_mask, mask.values.reshape(2, 1, 64, 48))


def test_scaling_rounds_to_whole_cells() -> None:
    latent = Latent(torch.rand(1, 4, 6, 5))
    assert scale_latent(latent, 1.5, method="nearest-exact").samples.shape == (1, 4, 9, 8)


def test_only_an_empty_latent_is_fitted_to_a_model() -> None:
    wide, fine = LatentFormat(channels=16, scale=1.0), LatentFormat(channels=3, scale=1.0, downscale=4)
    coarse = LatentFormat(channels=128, scale=1.0, downscale=16)
    empty = empty_latent(width=64, height=32, batch_size=2)
    assert fit_empty(empty, wide).shape == (2, 16, 4, 8)
    assert fit_empty(empty, fine).shape == (2, 3, 8, 16), "a picture of 64x32 pixels, in cells of 4"
    assert fit_empty(empty, coarse).shape == (2, 128, 2, 4)
    assert fit_empty(repeat_latent(empty, 2), fine).shape == (4, 3, 8, 16)
    assert fit_empty(Latent(torch.zeros(1, 4, 4, 8)), fine).shape == (1, 3, 4, 8), "it has its size already"
    with pytest.raises(ValueError, match="4 channels, but the model denoises 16"):
        fit_empty(Latent(torch.ones(2, 4, 3, 3)), wide)


def test_model_space_and_vae_space_are_each_others_inverse() -> None:
    latent_format = LatentFormat(channels=16, scale=1.5305, shift=0.0609)
    z = torch.linspace(-3, 3, 16).reshape(1, 16, 1, 1)
    x = to_model_space(z, latent_format)
    assert torch.allclose(x, (z - 0.0609) * 1.5305)
    assert torch.allclose(to_vae_space(x, latent_format), z, atol=1e-6)


def test_a_batch_is_cut_or_repeated_in_turn() -> None:
    x = torch.arange(3.0).reshape(3, 1)
    assert fit_batch(x, 2).flatten().tolist() == [0, 1]
    assert fit_batch(x, 7).flatten().tolist() == [0, 1, 2, 0, 1, 2, 0]
