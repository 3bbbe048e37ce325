"""Nodes that measure pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from latentgraph.diffusion.types import Image
from latentgraph.graph import Context, InvalidWorkflow, build_graph, parse_document
from latentgraph.nodes import default_registry
from latentgraph.nodes.measuring import ImageDifference, VAERoundTrip


def test_a_round_trip_gives_the_picture_back_with_its_psnr(sd1: Any) -> None:
    pixels = torch.rand(1, 37, 50, 3, generator=torch.Generator().manual_seed(0))
    trip = VAERoundTrip(vae=sd1.vae, image=Image(pixels)).run(Context())
    cell = sd1.vae.spec.downscale
    h, w = 37 // cell * cell, 50 // cell * cell
    top, left = (37 - h) // 2, (50 - w) // 2
    assert trip.image.pixels.shape == (1, h, w, 3)
    original = Image(pixels[:, top : top + h, left : left + w])
    assert trip.psnr == ImageDifference(image=trip.image, other=original).run(Context())
    assert 0 < trip.psnr < 30


def test_pictures_of_two_sizes_are_refused_before_the_run() -> None:
    document = """
latentgraph: 1
nodes:
  a: {type: SolidMask, width: 64, height: 64}
  b: {type: SolidMask, width: 64, height: 72}
  one: {type: ImageFromMask, mask: $a}
  two: {type: ImageFromMask, mask: $b}
  psnr: {type: ImageDifference, image: $one, other: $two}
outputs: {psnr: $psnr}
"""
    with pytest.raises(InvalidWorkflow, match="is 64x72, but input 'image' is 64x64; scale or crop one"):
        build_graph(parse_document(document), default_registry())
