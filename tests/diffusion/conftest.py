"""What several tests of the numerics read: reference results, and the picture that they were made from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from latentgraph.diffusion.types import Image


@pytest.fixture(scope="session")
def image_ops() -> dict[str, Any]:
    """Results of ComfyUI 0.8.0's picture nodes; each key says what was done."""
    results: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "image_ops.json").read_text("utf-8"))
    return results


@pytest.fixture(scope="session")
def picture() -> Callable[[int, int], Image]:
    """The pictures of image_ops.json, by height and width: pixel (y, x, k) is ((7y + 13x + 29k) mod 64) / 63."""

    def make(height: int, width: int) -> Image:
        y, x = torch.arange(height).reshape(-1, 1, 1), torch.arange(width).reshape(-1, 1)
        return Image(((7 * y + 13 * x + 29 * torch.arange(3)) % 64).float().unsqueeze(0) / 63)

    return make


@pytest.fixture(scope="session")
def builders(tiny: ModuleType, published: ModuleType) -> SimpleNamespace:
    """The layouts of published networks at their true size: UNets, and shapes of autoencoders and CLIP models."""
    sd1 = tiny.UNetLayout(
        320, (1, 2, 4, 4), (2,) * 4, (1,) * 6 + (0, 0), (1,) * 9 + (0,) * 3, 1, context=768, linear=False
    )
    return SimpleNamespace(
        tiny=tiny,
        published=published,
        sd1=sd1,
        sd2=replace(sd1, context=1024, linear=True),
        sdxl=tiny.UNetLayout(
            *(320, (1, 2, 4), (2,) * 3, (0, 0, 2, 2, 10, 10), (0, 0, 0, 2, 2, 2, 10, 10, 10), 10),
            context=2048,
            linear=True,
            adm=2816,
        ),
        refiner=tiny.UNetLayout(
            *(384, (1, 2, 4, 4), (2,) * 4, (0, 0, 4, 4, 4, 4, 0, 0), (0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0), 4),
            context=1280,
            linear=True,
            adm=2560,
        ),
        kl8=tiny.vae_shapes(128, (1, 2, 4, 4), 2),
        vq4=tiny.vae_shapes(128, (1, 2, 4), 2, latent=3, codes=8192),
        kl16={key: shape for key, shape in tiny.vae_shapes(128, blocks=2, latent=16).items() if "quant" not in key},
        clip_l=published.below("text_model.", tiny.clip_shapes(768, 12)),
        clip_g=published.below("text_model.", tiny.clip_shapes(1280, 32)) | {"text_projection.weight": (1280, 1280)},
        clip_h=tiny.open_clip_shapes(1024, 24, 1024),
        vision_h=tiny.open_clip_vision_shapes(1280, 32, 1024) | {"positional_embedding": (257, 1280)},
    )
