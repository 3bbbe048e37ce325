"""Pictures through an upscale model, in tiles that are halved when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..latents.tiling import tiled_scale
from ..networks.exhaustion import asked_bytes
from ..networks.memory import WeightMemory, Weights
from ..types import Image, UpscaleModel
from .reading import NEEDS_PACKAGE, MissingPackageError, can_upscale, describe_upscaler
from .sources import COLOURS, UpscalerSource

TILE, LEAST_TILE, OVERLAP = 512, 128, 32  # pixels along a side


def open_upscaler(path: Path | str, memory: WeightMemory) -> UpscaleModel:
    """Returns the upscale model of a file, its weights still on disk. Raises HeaderError and MissingPackageError."""
    source = UpscalerSource(describe_upscaler(path))
    if not can_upscale():
        raise MissingPackageError(f"{source.title} {NEEDS_PACKAGE}.")
    return UpscaleModel(Weights(memory, source))


@torch.inference_mode()
def upscale(
    model: UpscaleModel, image: Image, *, tile: int = TILE, on_progress: Callable[[float], None] | None = None
) -> Image:
    """Returns the pictures as many times as large as the model makes them, RGB in 0..1; an alpha channel is dropped.

    tile: pixels along the side of what goes through the model at once; halved, to no less than 128, while memory does not
    suffice. on_progress: is told after each tile which fraction is done; it may raise to cancel. Tiles, their overlap of
    32 pixels and the halving are those of ComfyUI 0.8.0 (behaviour).
    """
    x = image.pixels.movedim(-1, 1)[:, :COLOURS]

    def on_tile(done: int, tiles: int) -> None:
        if on_progress is not None:
            on_progress(done / tiles)

    with model.weights.use() as network:

        def enlarge(part: Tensor) -> Tensor:
            y: Tensor = network(part.to(network.device, network.dtype))
            return y.float().cpu()

        while True:
            try:
                y = tiled_scale(
                    x,
                    enlarge,
                    tile_width=tile,
                    tile_height=tile,
                    overlap=OVERLAP,
                    scale=network.scale,
                    on_tile=on_tile,
                )
                return Image(y.clamp(0.0, 1.0).movedim(1, -1))
            except RuntimeError as error:
                if asked_bytes(error) is None or tile // 2 < LEAST_TILE:
                    raise
            tile //= 2
            _let_go(network)


def _let_go(network: Any) -> None:
    """Returns memory that torch holds in reserve, so that smaller pieces of it can be used."""
    if network.device.type == "cuda":
        torch.cuda.empty_cache()
