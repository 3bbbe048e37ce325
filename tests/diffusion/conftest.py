"""What several tests of the numerics read: reference results, and the picture that they were made from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
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
