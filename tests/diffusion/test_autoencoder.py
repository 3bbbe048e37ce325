"""Encoding and decoding. The reference's own latents and pictures are compared in test_end_to_end.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.latents.autoencoder import decode, decode_tiled, encode, encode_tiled
from latentgraph.diffusion.latents.picture_conditions import condition_on_inpaint, encode_for_inpaint
from latentgraph.diffusion.latents.tiling import tiled_scale
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.types import Condition, Conditioning, Image, Latent, Mask, Vae

Picture = Callable[[int, int], Image]


@pytest.fixture(scope="module")
def vae(reference_tiny: Path) -> Vae:
    vae = open_checkpoint(reference_tiny, WeightMemory(precision="exact")).vae
    assert vae is not None
    return vae


@contextmanager
def counted_batches(vae: Vae, part: str) -> Iterator[list[int]]:
    batches: list[int] = []
    with vae.weights.use() as network:
        hook = getattr(network, part).register_forward_pre_hook(lambda _, given: batches.append(len(given[0])))
        try:
            yield batches
        finally:
            hook.remove()


class CancelledError(Exception):
    pass


def cancel(fraction: float) -> None:
    raise CancelledError


def test_encoding_crops_around_the_centre_to_whole_cells(vae: Vae, picture: Picture) -> None:
    odd = picture(53, 44)
    inner = Image(odd.pixels[:, 2:50, 2:42])
    assert torch.equal(encode(vae, odd).samples, encode(vae, inner).samples)


def test_encoding_drops_the_alpha_channel(vae: Vae, picture: Picture) -> None:
    rgb = picture(32, 32)
    rgba = Image(torch.cat([rgb.pixels, torch.zeros(1, 32, 32, 1)], dim=-1))
    assert torch.equal(encode(vae, rgba).samples, encode(vae, rgb).samples)


def test_the_layout_of_pictures_and_latents_in_memory_moves_no_bit(vae: Vae, picture: Picture) -> None:
    pixels = picture(32, 32).pixels
    latent = encode(vae, Image(pixels))
    planar = Image(pixels.movedim(-1, 1).contiguous().movedim(1, -1))
    assert torch.equal(encode(vae, planar).samples, latent.samples)
    other = Latent(latent.samples.to(memory_format=torch.channels_last))
    assert torch.equal(decode(vae, other).pixels, decode(vae, latent).pixels)


def test_a_picture_smaller_than_a_cell_is_an_error(vae: Vae) -> None:
    with pytest.raises(ValueError, match="picture of 32x7 pixels"):
        encode(vae, Image(torch.zeros(1, 7, 32, 3)))


def test_a_latent_of_other_channels_is_an_error_that_names_both_counts(vae: Vae) -> None:
    with pytest.raises(ValueError, match="16 channels, but the autoencoder decodes 4"):
        decode(vae, Latent(torch.zeros(1, 16, 4, 4)))


def test_decoded_pictures_lie_between_0_and_1(vae: Vae) -> None:
    pixels = decode(vae, Latent(100 * torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(0)))).pixels
    assert pixels.shape == (1, 32, 48, 3)
    assert (pixels.min(), pixels.max()) == (0.0, 1.0)


@pytest.mark.parametrize(("max_pixels", "batches"), [(10**6, [3]), (2 * 32 * 32, [2, 1]), (1, [1, 1, 1])])
def test_pictures_go_through_in_batches_of_a_limited_size(
    vae: Vae, picture: Picture, max_pixels: int, batches: list[int]
) -> None:
    images = Image(picture(32, 32).pixels.repeat(3, 1, 1, 1))
    fractions: list[float] = []
    with counted_batches(vae, "encoder") as encoded:
        latent = encode(vae, images, max_pixels=max_pixels, on_progress=fractions.append)
    with counted_batches(vae, "decoder") as decoded:
        decode(vae, latent, max_pixels=max_pixels)
    assert (encoded, decoded) == (batches, batches)
    assert len(fractions) == len(batches)
    assert fractions[-1] == 1.0


def test_tiles_larger_than_the_picture_change_nothing(vae: Vae, picture: Picture) -> None:
    whole = encode(vae, picture(32, 32))
    assert torch.allclose(encode_tiled(vae, picture(32, 32), tile_size=512).samples, whole.samples, rtol=1e-6)
    assert torch.allclose(decode_tiled(vae, whole, tile_size=512).pixels, decode(vae, whole).pixels, atol=1e-6)


def test_a_tiled_latent_is_the_mean_of_square_wide_and_high_tiles(vae: Vae, picture: Picture) -> None:
    def encoded(tile: Tensor) -> Tensor:
        return encode(vae, Image(tile.movedim(1, -1))).samples

    x = picture(96, 128).pixels.movedim(-1, 1)
    passes = [
        tiled_scale(x, encoded, tile_width=width, tile_height=height, overlap=16, scale=1 / 8)
        for width, height in [(64, 64), (128, 32), (32, 128)]
    ]
    tiled = encode_tiled(vae, picture(96, 128), tile_size=64, overlap=16).samples
    assert torch.allclose(tiled, sum(passes) / 3, atol=1e-5)


def test_progress_in_tiles_rises_to_1(vae: Vae) -> None:
    fractions: list[float] = []
    decode_tiled(vae, Latent(torch.zeros(1, 4, 8, 8)), tile_size=64, overlap=0, on_progress=fractions.append)
    assert fractions == sorted(fractions)
    assert len(fractions) == 2 + 2 + 1  # high, wide and square tiles
    assert fractions[-1] == 1.0


@pytest.mark.parametrize("work", ["encode_tiled", "decode_tiled"])
def test_tiled_work_stops_at_the_tile_at_which_its_watcher_raises(vae: Vae, picture: Picture, work: str) -> None:
    options: dict[str, Any] = {"tile_size": 32, "overlap": 8, "on_progress": cancel}
    run: dict[str, tuple[str, Callable[[], object]]] = {
        "encode_tiled": ("encoder", lambda: encode_tiled(vae, picture(64, 64), **options)),
        "decode_tiled": ("decoder", lambda: decode_tiled(vae, Latent(torch.zeros(1, 4, 8, 8)), **options)),
    }
    part, start = run[work]
    with counted_batches(vae, part) as batches, pytest.raises(CancelledError):
        start()
    assert batches == [1]


@pytest.mark.parametrize("sizes", [(50, 8), (64, 32), (64, 12), (64, -8)])
def test_tiles_that_do_not_fit_whole_cells_are_an_error(vae: Vae, picture: Picture, sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"tiles of {sizes[0]} pixels that overlap by {sizes[1]}"):
        encode_tiled(vae, picture(64, 64), tile_size=sizes[0], overlap=sizes[1])


@pytest.mark.parametrize("grow", [0, 6, 7])
def test_an_inpainting_latent_has_the_references_mask(
    vae: Vae, picture: Picture, image_ops: dict[str, Any], grow: int
) -> None:
    expected = image_ops[f"VAEEncodeForInpaint 67x45 grow={grow}"]
    top, bottom, left, right = image_ops["VAEEncodeForInpaint 67x45 grow=0"]["bbox_y0y1x0x1"]
    values = torch.zeros(1, 67, 45)
    values[:, top + 1 : bottom + 2, left + 2 : right + 3] = 1.0  # the crop takes 1 row and 2 columns
    latent = encode_for_inpaint(vae, picture(67, 45), Mask(values), grow_mask_by=grow)
    assert latent.samples.shape == (1, 4, 8, 5)
    assert latent.noise_mask is not None
    assert list(latent.noise_mask.shape) == expected["noise_mask_shape"]
    y, x = latent.noise_mask[0, 0].nonzero().unbind(1)
    assert [y.min(), y.max(), x.min(), x.max()] == expected["bbox_y0y1x0x1"]


def test_what_is_under_the_mask_does_not_reach_an_inpainting_latent(vae: Vae, picture: Picture) -> None:
    values = torch.zeros(1, 32, 32)
    values[:, 8:24, 8:24] = 1.0
    pixels = picture(32, 32).pixels.clone()
    first = encode_for_inpaint(vae, Image(pixels.clone()), Mask(values))
    pixels[:, 8:24, 8:24] = 1.0
    assert torch.equal(encode_for_inpaint(vae, Image(pixels), Mask(values)).samples, first.samples)


def test_conditions_carry_the_masked_picture_and_the_latent_the_whole_one(vae: Vae, picture: Picture) -> None:
    conditions = Conditioning((Condition(torch.zeros(1, 77, 24)),))
    values = torch.zeros(1, 32, 32)
    values[:, 8:24, 8:24] = 0.75
    given = condition_on_inpaint(vae, conditions, conditions, picture(32, 32), Mask(values), noise_mask=False)
    greyed = encode_for_inpaint(vae, picture(32, 32), Mask(values), grow_mask_by=0)
    entry = given.positive.entries[0]
    assert entry.concat_latent is not None
    assert entry.concat_mask is not None
    assert torch.equal(entry.concat_latent, greyed.samples)
    assert torch.equal(entry.concat_mask, values.unsqueeze(1))  # not rounded
    assert torch.equal(given.latent.samples, encode(vae, picture(32, 32)).samples)
    assert given.latent.noise_mask is None


def test_a_picture_smaller_than_a_cell_is_refused_with_its_size(vae: Vae) -> None:
    image = Image(torch.zeros(1, 9, 7, 3))
    for make in (lambda: encode(vae, image), lambda: encode_for_inpaint(vae, image, Mask(torch.ones(1, 9, 7)))):
        with pytest.raises(ValueError, match="cannot encode a picture of 7x9 pixels; its sides must be at least 8"):
            make()
