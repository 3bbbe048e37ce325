"""What a GPU gives is what the CPU gives, but for the rounding of its number formats: text, latents, pictures, whole runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from latentgraph.diffusion.checkpoints.opening import Checkpoint, open_checkpoint
from latentgraph.diffusion.latents.autoencoder import decode, decode_tiled, encode
from latentgraph.diffusion.latents.batches import empty_latent
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.names import SamplerName
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.sampling.run import sample
from latentgraph.diffusion.text.encoding import encode_prompt
from latentgraph.diffusion.types import Condition, Conditioning, Image

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
TIGHT, LOOSE = 2e-3, 0.05  # largest relative RMS in float32, where products may be in TF32, and in 16 bits
FILES = {"SD3.5": "first_stage_model.", "FLUX": "vae."}
Work = Callable[[Checkpoint], Tensor]


@pytest.fixture(scope="module")
def files(
    tiny_sd1: Path, tiny_sdxl: Path, tiny_dits: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder, found = tmp_path_factory.mktemp("dits"), {"SD1": tiny_sd1, "SDXL": tiny_sdxl}
    for name, prefix in FILES.items():
        found[name] = folder / f"{name}.safetensors"
        save_file(tiny_dits.checkpoint(tiny_dits.SPECS[name], vae_prefix=prefix), found[name])
    return found


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prompt(model: Model, seed: int) -> Conditioning:
    width = model.spec.pooled_width
    pooled = None if width is None else draw(seed + 1, 1, width)
    return Conditioning((Condition(draw(seed, 1, 77, model.spec.context_width), pooled),))


def run(model: Model, sampler: SamplerName = "euler") -> Tensor:
    latent = empty_latent(width=64, height=64)
    texts = prompt(model, 10), prompt(model, 20)
    return sample(model, *texts, latent, seed=1, steps=3, cfg=4.0, sampler=sampler, scheduler="normal").samples


def picture() -> Image:
    return Image(torch.rand(1, 64, 48, 3, generator=torch.Generator().manual_seed(5)))


def encoded(checkpoint: Checkpoint) -> Tensor:
    assert checkpoint.clip is not None
    return encode_prompt(checkpoint.clip, "a (lighthouse:1.3) at dusk").conditioning.entries[0].embedding


def coded(checkpoint: Checkpoint) -> Tensor:
    assert checkpoint.vae is not None
    return encode(checkpoint.vae, picture()).samples


def decoded(checkpoint: Checkpoint) -> Tensor:
    assert checkpoint.vae is not None
    return decode(checkpoint.vae, encode(checkpoint.vae, picture())).pixels


def decoded_in_tiles(checkpoint: Checkpoint) -> Tensor:
    assert checkpoint.vae is not None
    return decode_tiled(checkpoint.vae, encode(checkpoint.vae, picture()), tile_size=32, overlap=8).pixels


def sampled(sampler: SamplerName) -> Work:
    return lambda checkpoint: run(checkpoint.model, sampler)


WORK: dict[str, Work] = {
    "text": encoded,
    "a latent": coded,
    "a picture": decoded,
    "a picture in tiles": decoded_in_tiles,
    "euler": sampled("euler"),
    "dpmpp_2m_sde": sampled("dpmpp_2m_sde"),
    "uni_pc": sampled("uni_pc"),
}
PAIRS = [
    *[("SD1", what) for what in WORK],
    *[("SDXL", what) for what in ("text", "euler")],
    *[(name, what) for name in FILES for what in ("a picture", "euler")],
]


def distance(found: Tensor, wanted: Tensor) -> float:
    """Returns the root of the mean square of the difference, in parts of the wanted values'."""
    assert found.device == wanted.device
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(("name", "what"), PAIRS)
def test_a_gpu_gives_what_the_cpu_gives(files: dict[str, Path], name: str, what: str) -> None:
    wanted = WORK[what](open_checkpoint(files[name], WeightMemory(precision="fp32", device="cpu")))
    for precision, most in (("fp32", TIGHT), ("auto", LOOSE)):
        checkpoint = open_checkpoint(files[name], WeightMemory(precision=precision, device=DEVICE))
        assert distance(WORK[what](checkpoint), wanted) < most, precision


@pytest.mark.parametrize("name", ["SD1", "FLUX"])
def test_compiled_blocks_give_what_the_network_gives(files: dict[str, Path], name: str) -> None:
    model = open_checkpoint(files[name], WeightMemory(device=DEVICE)).model
    compiled = replace(model, options=replace(model.options, compiled=True))
    assert distance(run(compiled), run(model)) < LOOSE
