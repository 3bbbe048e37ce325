"""Resizing, against ComfyUI 0.8.0's results and its rules for sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from latentgraph.diffusion.names import CropName, ResizeMethod
from latentgraph.diffusion.pictures.resize import (
    resize,
    resize_image,
    resize_image_to_megapixels,
    resize_latent,
    scale_image,
)
from latentgraph.diffusion.types import Image, Latent

METHODS: tuple[ResizeMethod, ...] = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
LATENT_KEY = "latent upscale 6x5 -> 8x9; lat=sin(linspace(-3,3,120)) as 1,4,6,5"
LATENT = Latent(torch.sin(torch.linspace(-3, 3, 120)).reshape(1, 4, 6, 5))


@pytest.mark.parametrize("crop", ["disabled", "center"])
@pytest.mark.parametrize("method", METHODS)
def test_pictures_are_those_of_the_reference(
    method: ResizeMethod, crop: CropName, image_ops: dict[str, Any], picture: Callable[[int, int], Image]
) -> None:
    cases = {key: case for key, case in image_ops["ImageScale on 10x12"].items() if key.split()[::2] == [method, crop]}
    assert len(cases) == 2
    for key, wanted in cases.items():
        width, height = map(int, key.split()[1].split("x"))
        pixels = resize_image(picture(10, 12), width=width, height=height, method=method, crop=crop).pixels
        assert list(pixels.shape) == wanted["shape"]
        assert pixels.flatten()[:9].tolist() == pytest.approx(wanted["first9"], abs=1e-6)
        assert float(pixels.mean()) == pytest.approx(wanted["mean"], abs=1e-6)


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"])
def test_latents_are_those_of_the_reference(method: ResizeMethod, image_ops: dict[str, Any]) -> None:
    wanted = image_ops[LATENT_KEY][method]
    samples = resize_latent(LATENT, width=9, height=8, method=method).samples
    assert list(samples.shape) == wanted["shape"]
    assert samples.flatten()[:8].tolist() == pytest.approx(wanted["first8"], abs=1e-6)
    assert float(samples.mean()) == pytest.approx(wanted["mean"], abs=1e-6)
    assert float(samples.std()) == pytest.approx(wanted["std"], abs=1e-5)


def test_sizes_follow_the_rules_of_the_reference(
    image_ops: dict[str, Any], picture: Callable[[int, int], Image]
) -> None:
    image = picture(10, 12)
    by_height = resize_image(image, width=0, height=5)
    assert list(by_height.pixels.shape) == image_ops["ImageScale width=0,height=5 shape"]
    by_factor = scale_image(image, 1.25, method="bilinear")
    assert list(by_factor.pixels.shape) == image_ops["ImageScaleBy 1.25 bilinear shape"]
    by_area = resize_image_to_megapixels(image, megapixels=0.01)
    assert list(by_area.pixels.shape) == image_ops["ImageScaleToTotalPixels 0.01MP shape"]
    by_steps = resize_image_to_megapixels(image, megapixels=0.01, multiple=16)
    assert list(by_steps.pixels.shape) == image_ops["ImageScaleToTotalPixels 0.01MP steps16 shape"]
    assert resize_image(image, width=0, height=0).pixels.shape == image.pixels.shape
    assert resize_latent(LATENT, width=10, height=0).samples.shape == (1, 4, 12, 10)


def test_resizing_a_latent_keeps_its_mask_and_its_noise() -> None:
    mask = torch.ones(1, 1, 48, 40)
    resized = resize_latent(Latent(LATENT.samples, mask, (3,)), width=9, height=8)
    assert resized.noise_mask is mask
    assert resized.batch_index == (3,)


def test_bislerp_keeps_the_length_of_vectors_that_bilinear_shortens() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 2, 1, 2)  # two unit vectors at a right angle
    turned = resize(x, width=8, height=1, method="bislerp")
    torch.testing.assert_close(turned.norm(dim=1), torch.ones(1, 1, 8))
    assert float(resize(x, width=8, height=1, method="bilinear").norm(dim=1).min()) < 0.8


def test_bislerp_is_finite_on_zero_equal_and_opposite_vectors() -> None:
    x = torch.tensor([[0.0, 1.0, 1.0, -1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 2.0]]).reshape(1, 2, 1, 5)
    assert torch.isfinite(resize(x, width=33, height=3, method="bislerp")).all()


@pytest.mark.parametrize("channels", [1, 4])
def test_lanczos_takes_grey_and_rgba(channels: int) -> None:
    x = torch.rand(2, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    assert resize(x, width=3, height=4, method="lanczos").shape == (2, channels, 4, 3)


def test_unknown_names_are_answered_with_near_ones() -> None:
    x = torch.zeros(1, 3, 2, 2)
    method: Any = "bilinaer"
    with pytest.raises(ValueError, match=r"unknown resize method 'bilinaer'\. Did you mean 'bilinear'"):
        resize(x, width=1, height=1, method=method)
    crop: Any = "centre"
    with pytest.raises(ValueError, match=r"unknown crop 'centre'\. Did you mean 'center'"):
        resize(x, width=1, height=1, method="area", crop=crop)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("width", "height"), [(1, 500), (500, 1)])
def test_a_crop_to_an_extreme_aspect_keeps_the_middle(
    method: ResizeMethod, width: int, height: int, picture: Callable[[int, int], Image]
) -> None:
    pixels = torch.full((1, 40, 64, 3), 0.2)
    pixels[:, 19:21, 31:33] = 0.6
    cropped = resize_image(Image(pixels), width=width, height=height, method=method, crop="center").pixels
    assert cropped.shape == (1, height, width, 3)
    assert float(cropped[0, height // 2, width // 2].min()) > 0.55
