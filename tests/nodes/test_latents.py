"""Latents made, changed and decoded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.types import Condition, Conditioning, Image, Latent, Mask
from latentgraph.graph import Context, RunCancelled
from latentgraph.nodes.autoencoders import VAEDecode, VAEDecodeTiled, VAEEncode, VAEEncodeTiled
from latentgraph.nodes.latents import (
    CompositeLatent,
    EmptyLatent,
    LatentFromBatch,
    LatentUpscale,
    LatentUpscaleBy,
    PasteLatent,
    RepeatLatent,
    SetLatentMask,
)
from latentgraph.nodes.picture_conditions import InpaintConditioning

CTX = Context()
PICTURE = Image(torch.linspace(0, 1, 64 * 64 * 3).reshape(1, 64, 64, 3))
LEFT_HALF = Mask(torch.cat([torch.ones(1, 64, 32), torch.zeros(1, 64, 32)], dim=2))
COARSE = {"cell": 16}  # as FLUX.2 has it
LATENT = Latent(torch.arange(2 * 4 * 4 * 6, dtype=torch.float32).reshape(2, 4, 4, 6))


def test_an_empty_latent_is_an_eighth_of_its_picture() -> None:
    latent = EmptyLatent(width=64, height=32, batch_size=3).run(CTX)
    assert latent.samples.shape == (3, 4, 4, 8)
    assert not latent.samples.any()


def test_a_picture_goes_through_the_autoencoder_and_back(sd1: Any) -> None:
    latent = VAEEncode(vae=sd1.vae, image=PICTURE).run(CTX)
    assert latent.samples.shape == (1, 4, 8, 8)
    assert latent.noise_mask is None
    assert VAEDecode(vae=sd1.vae, latent=latent).run(CTX).pixels.shape == PICTURE.pixels.shape


def test_encoding_with_a_mask_hides_what_is_to_be_painted(sd1: Any) -> None:
    masked = VAEEncode(vae=sd1.vae, image=PICTURE, mask=LEFT_HALF, grow_mask_by=8).run(CTX)
    assert masked.noise_mask is not None
    assert masked.noise_mask.shape == (1, 1, 64, 64)
    assert masked.noise_mask.sum() > LEFT_HALF.values.sum()
    painted = PICTURE.pixels.clone()
    painted[:, :, :32] = 0.9
    again = VAEEncode(vae=sd1.vae, image=Image(painted), mask=LEFT_HALF, grow_mask_by=8).run(CTX)
    assert torch.equal(again.samples, masked.samples)


def test_tiles_give_almost_what_the_whole_gives(sd1: Any) -> None:
    latent = VAEEncodeTiled(vae=sd1.vae, image=PICTURE, tile_size=256, overlap=32).run(CTX)
    whole = VAEEncode(vae=sd1.vae, image=PICTURE).run(CTX)
    assert torch.allclose(latent.samples, whole.samples, atol=1e-5)
    picture = VAEDecodeTiled(vae=sd1.vae, latent=whole, tile_size=256, overlap=32).run(CTX)
    assert torch.allclose(picture.pixels, VAEDecode(vae=sd1.vae, latent=whole).run(CTX).pixels, atol=1e-5)


def test_tiles_are_told_one_by_one_and_can_be_cancelled(sd1: Any, watched: Any) -> None:
    ctx = watched(cancel_at=3)
    with pytest.raises(RunCancelled):
        VAEDecodeTiled(vae=sd1.vae, latent=Latent(torch.zeros(1, 4, 16, 16)), tile_size=64, overlap=0).run(ctx)
    assert len(ctx.steps) == 3
    assert ctx.steps == sorted(ctx.steps)


def test_a_latent_gets_a_mask() -> None:
    masked = SetLatentMask(latent=LATENT, mask=LEFT_HALF).run(CTX)
    assert masked.noise_mask is not None
    assert torch.equal(masked.noise_mask[:, 0], LEFT_HALF.values)


def test_conditions_for_inpainting_carry_the_masked_picture(sd1: Any) -> None:
    text = Conditioning((Condition(torch.zeros(1, 77, 64)),))
    inputs = {"positive": text, "negative": text, "vae": sd1.vae, "image": PICTURE, "mask": LEFT_HALF}
    made = InpaintConditioning(**inputs).run(CTX)
    for conditioning in (made.positive, made.negative):
        assert conditioning.entries[0].concat_latent is not None
        assert conditioning.entries[0].concat_mask is not None
    assert made.latent.noise_mask is not None
    assert InpaintConditioning(**inputs, noise_mask=False).run(CTX).latent.noise_mask is None


@pytest.mark.parametrize(
    ("width", "height", "cells"),
    [(80, 48, (10, 6)), (0, 0, (6, 4)), (96, 0, (12, 8)), (0, 96, (18, 12)), (136, 0, (17, 11)), (8, 0, (8, 8))],
)
def test_a_size_in_pixels_becomes_whole_cells_and_0_keeps_the_aspect(
    width: int, height: int, cells: tuple[int, int]
) -> None:
    latent = LatentUpscale(latent=LATENT, width=width, height=height).run(CTX)
    assert (latent.samples.shape[3], latent.samples.shape[2]) == cells


@pytest.mark.parametrize(
    ("width", "height", "cells"), [(160, 96, (10, 6)), (168, 96, (10, 6)), (192, 0, (12, 8)), (8, 8, (1, 1))]
)
def test_a_size_in_pixels_counts_the_cells_of_the_latent(width: int, height: int, cells: tuple[int, int]) -> None:
    coarse = LatentUpscale(latent=Latent(LATENT.samples, **COARSE), width=width, height=height).run(CTX)
    assert (coarse.samples.shape[3], coarse.samples.shape[2]) == cells
    assert coarse.downscale == 16


def test_a_latent_is_scaled_by_a_factor() -> None:
    assert LatentUpscaleBy(latent=LATENT, factor=1.5, method="bislerp").run(CTX).samples.shape == (2, 4, 6, 9)


def test_a_latent_taken_out_of_a_batch_keeps_its_noise() -> None:
    taken = LatentFromBatch(latent=LATENT, index=1).run(CTX)
    assert torch.equal(taken.samples, LATENT.samples[1:])
    assert taken.batch_index == (1,)


def test_a_batch_is_repeated() -> None:
    assert RepeatLatent(latent=LATENT, amount=3).run(CTX).samples.shape[0] == 6


def test_latents_are_laid_over_others_at_a_place_in_pixels() -> None:
    below, above = Latent(torch.zeros(1, 4, 4, 6)), Latent(torch.ones(1, 4, 2, 2))
    for node in (
        CompositeLatent(destination=below, source=above, x=16, y=8),
        PasteLatent(destination=below, source=above, x=16, y=8),
    ):
        laid = node.run(CTX).samples[0, 0]
        assert laid.nonzero().tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]


def test_a_place_in_pixels_counts_the_cells_of_the_latent() -> None:
    below, above = Latent(torch.zeros(1, 4, 4, 6), **COARSE), Latent(torch.ones(1, 4, 2, 2), **COARSE)
    for node in (
        CompositeLatent(destination=below, source=above, x=32, y=16),
        PasteLatent(destination=below, source=above, x=32, y=16),
    ):
        laid = node.run(CTX)
        assert laid.samples[0, 0].nonzero().tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]
        assert laid.downscale == 16


def test_a_pasted_latent_fades_in() -> None:
    below, above = Latent(torch.zeros(1, 4, 4, 6)), Latent(torch.ones(1, 4, 4, 4))
    faded = PasteLatent(destination=below, source=above, x=16, feather=16).run(CTX).samples[0, 0, 0]
    assert faded.tolist() == [0, 0, 0.5, 1, 1, 1]


def test_weights_come_from_the_memory_of_the_run(sd1: Any, context: Context) -> None:
    VAEDecode(vae=sd1.vae, latent=LATENT).run(CTX)
    assert context.resource(WeightMemory).is_resident(sd1.vae.weights.source)
