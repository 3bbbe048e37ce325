"""Pictures to latents and back, whole or in tiles.

An autoencoder speaks VAE space: nothing here knows a family's scale, a network that denoises, or any noise. Encoding
takes the mean of the posterior, so it is deterministic. Behaviour as in ComfyUI 0.8.0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..families.autoencoders import VaeSpec
from ..networks.budget import gibibytes
from ..networks.faults import check_finite
from ..pictures.resize import crop_to_cells
from ..pictures.sizes import check_sides
from ..types import Image, Latent, Vae
from .coding import decode_latents, encode_pixels
from .room import TILE, decode_bytes, encode_bytes, tile_advice
from .tiling import OnProgress, tiled_mean

OVERLAP = 64  # pixels, of tiles that nobody gave a size
MAX_PIXELS = 2**20  # pictures that go through the autoencoder at once: one of 1024 x 1024, or four of 512 x 512

OnNotice = Callable[[str], None]
"""Called with a sentence about something that was done otherwise than was asked for."""


@torch.inference_mode()
def encode(
    vae: Vae,
    image: Image,
    *,
    max_pixels: int = MAX_PIXELS,
    on_progress: OnProgress | None = None,
    on_notice: OnNotice | None = None,
) -> Latent:
    """Returns the pictures' latents. Sides are cropped around the centre to whole cells; an alpha channel is dropped.

    max_pixels: at most so many pixels go through the network at once, though never less than one picture. A picture that would
    not fit into memory is encoded in tiles, except in `exact` precision, whose results never depend on free memory.
    """
    x = _network_pixels(vae, image)
    with vae.weights.use(tile_advice(vae, "VAEEncodeTiled")) as network:
        one = partial(_encode, vae.spec, network)
        pixels = x.shape[2] * x.shape[3]
        if _needs_tiles(vae, encode_bytes(vae.spec, pixels, _itemsize(vae)), "the picture is encoded", on_notice):
            z = _encode_in_tiles(vae, one, x, TILE, OVERLAP, on_progress)
        else:
            z = _in_batches(lambda part, _: one(part), x, max_pixels, on_progress)
    return Latent(z, cell=vae.spec.downscale)


@torch.inference_mode()
def decode(
    vae: Vae,
    latent: Latent,
    *,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    on_progress: OnProgress | None = None,
    on_notice: OnNotice | None = None,
) -> Image:
    """Returns the latents' pictures, RGB in 0..1. max_pixels: as for `encode`, counted in the picture; tiles: as there.

    seed: of the first item's noise, and so on by `batch_index`, for an autoencoder that draws some.
    """
    z = _network_latent(vae, latent)
    seeds = [seed + index for index in latent.batch_index or range(len(z))]
    with vae.weights.use(tile_advice(vae, "VAEDecodeTiled")) as network:
        one = partial(_decode, vae.spec, network)
        pixels = z.shape[2] * z.shape[3] * vae.spec.downscale**2
        if _needs_tiles(vae, decode_bytes(vae.spec, pixels, _itemsize(vae)), "the picture is decoded", on_notice):
            return _picture(_decode_in_tiles(vae, one, z, TILE, OVERLAP, on_progress))
        y = _in_batches(
            lambda part, start: one(part, seeds=seeds[start : start + len(part)]),
            z,
            max_pixels // vae.spec.downscale**2,
            on_progress,
        )
    return _picture(y)


@torch.inference_mode()
def encode_tiled(
    vae: Vae, image: Image, *, tile_size: int = TILE, overlap: int = OVERLAP, on_progress: OnProgress | None = None
) -> Latent:
    """Returns the pictures' latents, made in tiles, so that memory does not grow with the picture.

    tile_size, overlap: in pixels; the mean of passes with square, wide and high tiles. Raises ValueError for sizes that
    are not whole cells, or an overlap of half a tile or more.
    """
    cell = vae.spec.downscale
    if tile_size % (2 * cell) or overlap % cell or not 0 <= overlap < tile_size // 2:
        raise ValueError(
            f"cannot encode in tiles of {tile_size} pixels that overlap by {overlap}; the tile must be a multiple of "
            f"{2 * cell}, the overlap a multiple of {cell} and less than half a tile."
        )
    x = _network_pixels(vae, image)
    with vae.weights.use(tile_advice(vae, "smaller tiles")) as network:
        z = _encode_in_tiles(vae, partial(_encode, vae.spec, network), x, tile_size, overlap, on_progress)
    return Latent(z, cell=cell)


@torch.inference_mode()
def decode_tiled(
    vae: Vae, latent: Latent, *, tile_size: int = TILE, overlap: int = OVERLAP, on_progress: OnProgress | None = None
) -> Image:
    """Returns the latents' pictures, made in tiles, so that memory does not grow with the picture.

    tile_size, overlap: in pixels of the picture, rounded down to whole cells; an overlap of more than a quarter of a
    tile becomes a quarter. The mean of passes with high, wide and square tiles.
    """
    if vae.spec.draws_noise:
        raise ValueError("this autoencoder draws noise for the whole picture and can't decode in tiles; use VAEDecode.")
    if tile_size < 2 * vae.spec.downscale:
        raise ValueError(f"cannot decode in tiles of {tile_size} pixels; give at least {2 * vae.spec.downscale}.")
    z = _network_latent(vae, latent)
    with vae.weights.use(tile_advice(vae, "smaller tiles")) as network:
        return _picture(_decode_in_tiles(vae, partial(_decode, vae.spec, network), z, tile_size, overlap, on_progress))


def _network_pixels(vae: Vae, image: Image) -> Tensor:
    """(B, 3, H, W) in -1..1, whole cells."""
    if not vae.spec.encodes:
        raise ValueError(f"{vae.weights.source.title} is a decoder alone and can't encode; load its encoder, too.")
    cell = vae.spec.downscale
    h, w = image.pixels.shape[1:3]
    check_sides(w, h, cell)
    pixels = crop_to_cells(image, cell).pixels[..., : vae.spec.picture_channels]
    return pixels.movedim(-1, 1) * 2.0 - 1.0


def _network_latent(vae: Vae, latent: Latent) -> Tensor:
    channels = latent.samples.shape[1]
    if channels != vae.spec.latent_channels:
        raise ValueError(
            f"the latent has {channels} channels, but the autoencoder decodes {vae.spec.latent_channels}; "
            "use the autoencoder of the model that made it."
        )
    return latent.samples.contiguous()  # the layout in memory moves the last bits


def _itemsize(vae: Vae) -> int:
    return vae.weights.policy.vae.itemsize


def _needs_tiles(vae: Vae, size: int, what: str, on_notice: OnNotice | None) -> bool:
    """Returns whether a pass that takes so many bytes has to be made in tiles; then says so."""
    if vae.weights.policy.precision == "exact" or vae.spec.draws_noise or vae.weights.memory.has_room(size):
        return False
    if on_notice is not None:
        on_notice(f"{what} in tiles: as a whole it would take about {gibibytes(size)}, more than is free")
    return True


def _encode(spec: VaeSpec, network: Any, x: Tensor) -> Tensor:
    z = encode_pixels(spec, network, x)
    check_finite(z, network, lambda: encode_pixels(spec, network, x), what="the encoded picture")
    return z.cpu().contiguous()


def _decode(spec: VaeSpec, network: Any, z: Tensor, seeds: Sequence[int] = ()) -> Tensor:
    y = decode_latents(spec, network, z, seeds=seeds)
    check_finite(y, network, lambda: decode_latents(spec, network, z, seeds=seeds), what="the decoded picture")
    return y.float().cpu()


def _picture(y: Tensor) -> Image:
    return Image(((y + 1.0) / 2.0).clamp(0.0, 1.0).movedim(1, -1))


def _in_batches(
    function: Callable[[Tensor, int], Tensor], x: Tensor, max_cells: int, on_progress: OnProgress | None
) -> Tensor:
    """The function is given each part and the number of its first item."""
    size = max(1, max_cells // (x.shape[2] * x.shape[3]))
    done = []
    for start in range(0, len(x), size):
        done.append(function(x[start : start + size], start))
        if on_progress is not None:
            on_progress(min(1.0, (start + size) / len(x)))
    return torch.cat(done)


def _encode_in_tiles(
    vae: Vae, one: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: int, on_progress: OnProgress | None
) -> Tensor:
    wide, high = (2 * tile, tile // 2), (tile // 2, 2 * tile)
    passes = ((tile, tile), wide, high)
    return tiled_mean(one, x, passes=passes, overlap=overlap, scale=1 / vae.spec.downscale, on_progress=on_progress)


def _decode_in_tiles(
    vae: Vae, one: Callable[[Tensor], Tensor], z: Tensor, tile_size: int, overlap: int, on_progress: OnProgress | None
) -> Tensor:
    cell = vae.spec.downscale
    tile, overlap = tile_size // cell, min(overlap, tile_size // 4) // cell
    high, wide = (tile // 2, 2 * tile), (2 * tile, tile // 2)
    return tiled_mean(one, z, passes=(high, wide, (tile, tile)), overlap=overlap, scale=cell, on_progress=on_progress)
