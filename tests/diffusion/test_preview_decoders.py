from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType

import pytest
import torch

from latentgraph.diffusion.checkpoints.opening import open_tiny_vae
from latentgraph.diffusion.families.stable_diffusion import SD_LATENT, SDXL_LATENT
from latentgraph.diffusion.latents.autoencoder import decode
from latentgraph.diffusion.latents.preview_decoders import PreviewDecoders
from latentgraph.diffusion.latents.previews import preview_picture
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.types import Latent


@pytest.fixture
def folder(tiny: ModuleType, tmp_path: Path) -> Path:
    tiny.write(tmp_path / "taesd_decoder.safetensors", tiny.fill(tiny.tiny_vae_shapes("decoder", first=1), gain=1.5))
    return tmp_path


def latent(height: int = 4, width: int = 6) -> torch.Tensor:
    return torch.randn(4, height, width, generator=torch.Generator().manual_seed(0))


def test_a_tiny_decoder_shows_the_latents_of_its_own_family(folder: Path) -> None:
    memory = WeightMemory(precision="exact")
    decoders = PreviewDecoders(folder, memory)
    vae = open_tiny_vae(folder / "taesd_decoder.safetensors", None, memory, family="sd1")
    expected = decode(vae, Latent(latent()[None] / SD_LATENT.scale)).pixels[0]
    picture = decoders.picture(latent(), SD_LATENT)
    assert (picture.shape, picture.dtype) == ((32, 48, 3), torch.uint8)
    assert torch.equal(picture, (expected * 255).to(torch.uint8))
    assert picture.unique().numel() > 10

    assert torch.equal(decoders.picture(latent(), SDXL_LATENT), preview_picture(latent(), SDXL_LATENT))


def test_a_large_latent_is_shown_small(folder: Path) -> None:
    decoders = PreviewDecoders(folder, WeightMemory(precision="exact"))
    assert decoders.picture(latent(48, 96), SD_LATENT).shape == (128, 256, 3)


def test_a_file_that_can_not_be_used_is_told_of_once_and_previews_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "taesd_decoder.safetensors").write_bytes(b"no weights")
    decoders = PreviewDecoders(tmp_path, WeightMemory(precision="exact"))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.equal(decoders.picture(latent(), SD_LATENT), preview_picture(latent(), SD_LATENT))
    assert [record.getMessage().count("taesd_decoder.safetensors") for record in caplog.records] == [1]


def test_a_latent_that_went_wrong_is_shown_as_it_is(folder: Path) -> None:
    wrong = torch.full((4, 2, 2), torch.nan)
    assert PreviewDecoders(folder, WeightMemory(precision="exact")).picture(wrong, SD_LATENT).shape == (2, 2, 3)
