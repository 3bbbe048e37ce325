"""What networks are fed beside the latent: SDXL's vector as the reference has it, and an inpainting network's channels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.checkpoints.opening import open_checkpoint
from latentgraph.diffusion.families.specs import SDXL_VECTOR as SDXL
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.sampling.calls import unet_network
from latentgraph.diffusion.sampling.extra_channels import BLANK_PICTURE, extra_channels
from latentgraph.diffusion.sampling.network_inputs import network_inputs
from latentgraph.diffusion.sampling.vectors import size_numbers
from latentgraph.diffusion.types import Condition, PictureSize

SDXL_VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "misc.json").read_text("utf-8"))[
    "SDXL y (w832 h1216 cw8 ch16 tw1024 th1536)"
]
SIZE = PictureSize(height=1216, width=832, crop_y=16, crop_x=8, target_height=1536, target_width=1024)


@pytest.fixture(scope="module")
def sdxl(tiny_sdxl: Path) -> Model:
    return open_checkpoint(tiny_sdxl, WeightMemory(precision="exact")).model


@pytest.fixture(scope="module")
def inpaint(reference_tiny_inpaint: Path) -> Model:
    return open_checkpoint(reference_tiny_inpaint, WeightMemory(precision="exact")).model


def sdxl_condition(**options: object) -> Condition:
    return replace(Condition(torch.zeros(1, 77, 128), pooled=torch.arange(64.0)[None] / 64), **options)  # type: ignore[arg-type]


@torch.inference_mode()
def vector_that_reaches_the_network(model: Model, condition: Condition) -> Tensor:
    latent = torch.zeros(2, 4, 8, 8)
    inputs = network_inputs(condition, spec=model.spec, latent=latent)
    seen = []
    with model.weights.use() as unet:
        hook = unet.add_embedding.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
        unet_network(unet)(latent[:1], torch.tensor([999.0]), inputs)
        hook.remove()
    vector: Tensor = seen[0]
    return vector


def test_an_sdxl_network_gets_the_references_vector(sdxl: Model) -> None:
    y = vector_that_reaches_the_network(sdxl, sdxl_condition(size=SIZE))
    pooled, numbers = y[0, :64], y[0, 64:].reshape(6, 2, 128)  # each number: 128 cosines, 128 sines
    assert torch.equal(pooled, torch.arange(64.0) / 64)
    cosines = SDXL_VECTOR["at 1280,1536,1792,2048,2304,2560 (cos0..1 of h,w,ch,cw,th,tw)"]
    assert torch.allclose(numbers[:, 0, :2], torch.tensor(cosines), atol=1e-6)
    assert torch.allclose(numbers[:, 1, :2], torch.tensor(SDXL_VECTOR["sin first of each"]), atol=1e-6)


def test_sizes_that_are_not_given_are_those_of_the_picture() -> None:
    assert size_numbers(PictureSize(), SDXL.numbers, height=1024, width=768) == (1024, 768, 0, 0, 1024, 768)


def test_the_target_defaults_to_the_size_that_is_given() -> None:
    size = PictureSize(height=512, width=640, crop_y=3, crop_x=4)
    assert size_numbers(size, SDXL.numbers, height=1024, width=768) == (512, 640, 3, 4, 512, 640)


def test_an_sdxl_network_without_a_pooled_text_is_an_error_that_names_the_width(sdxl: Model) -> None:
    with pytest.raises(ValueError, match="pooled text vector of width 64, but the condition has none"):
        network_inputs(sdxl_condition(pooled=None), spec=sdxl.spec, latent=torch.zeros(1, 4, 8, 8))


def test_without_any_mask_everything_is_to_be_made_from_a_blank_picture(inpaint: Model) -> None:
    channels = extra_channels(Condition(torch.zeros(1, 77, 24)), spec=inpaint.spec, latent=torch.zeros(2, 4, 3, 5))
    assert channels.shape == (2, 5, 3, 5)
    assert torch.equal(channels[:, 0], torch.ones(2, 3, 5))
    assert torch.equal(channels[0, 1:, 2, 4], torch.tensor(BLANK_PICTURE))


def test_the_conditions_mask_and_picture_come_before_the_runs(inpaint: Model) -> None:
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :24] = 0.6  # rounds to 1, after it was resized
    condition = Condition(torch.zeros(1, 77, 24), concat_latent=torch.ones(1, 4, 8, 8), concat_mask=mask)
    channels = extra_channels(
        condition, spec=inpaint.spec, latent=torch.zeros(2, 4, 8, 8), noise_mask=torch.zeros(2, 4, 8, 8)
    )
    assert torch.equal(channels[:, 0], torch.ones(2, 8, 8) * (torch.arange(8) < 3))
    assert torch.equal(channels[:, 1:], torch.full((2, 4, 8, 8), 0.18215))


def test_the_runs_mask_serves_where_the_condition_has_none(inpaint: Model) -> None:
    latent = torch.full((1, 4, 8, 8), 0.5)
    mask = torch.full((1, 4, 8, 8), 0.4)
    channels = extra_channels(Condition(torch.zeros(1, 77, 24)), spec=inpaint.spec, latent=latent, noise_mask=mask)
    assert torch.equal(channels, torch.cat([torch.zeros(1, 1, 8, 8), latent], dim=1))
