"""Runs of small UNets as diffusers' pipelines make them, and what they are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
)
from torch import Tensor

from latentgraph.diffusion.checkpoints.opening import Checkpoint, open_checkpoint
from latentgraph.diffusion.latents.batches import to_model_space
from latentgraph.diffusion.model import Guider
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.samplers.noise import initial_noise
from latentgraph.diffusion.sampling.guidance import ListName
from latentgraph.diffusion.sampling.run import sample_guided
from latentgraph.diffusion.types import (
    Condition,
    Conditioning,
    Latent,
    Noise,
    Sampler,
    Sigmas,
)

SEED = 3
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def opened(path: Path) -> Checkpoint:
    return open_checkpoint(path, WeightMemory(precision="exact"))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(tiny: ModuleType, network: Any, gain: float = 0.5) -> Any:
    network.load_state_dict(tiny.fill({name: tuple(w.shape) for name, w in network.state_dict().items()}, gain=gain))
    return network.eval()


def write_folder(path: Path, pipeline: str, **parts: Any) -> Path:
    """Writes a diffusers folder, each part by its own hand."""
    path.mkdir()
    kinds = {name: [type(part).__module__.split(".")[0], type(part).__name__] for name, part in parts.items()}
    (path / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **kinds}))
    for name, part in parts.items():
        part.save_pretrained(path / name)
    return path


def kl(tiny: ModuleType) -> AutoencoderKL:
    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    network = AutoencoderKL(
        block_out_channels=(32,) * 4, down_block_types=down, up_block_types=up, layers_per_block=1, latent_channels=4
    )
    return filled(tiny, network, gain=1.0)  # type: ignore[no-any-return]


def euler(steps: int) -> EulerDiscreteScheduler:
    """A scheduler whose timesteps are whole numbers, as ours are."""
    scheduler = EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1)
    scheduler.set_timesteps(steps)
    return scheduler


def first_latents(scheduler: EulerDiscreteScheduler, shape: tuple[int, ...]) -> Tensor:
    """What a pipeline must be given to start from the noise that a run of ours starts from."""
    start: Tensor = initial_noise(torch.Size(shape), SEED) * scheduler.sigmas[0] / scheduler.init_noise_sigma
    return start


def sampled(
    checkpoint: Checkpoint, lists: Mapping[ListName, Conditioning], rule: Any, latent: Latent, steps: int
) -> Tensor:
    """Returns the latent of a run with the levels of `euler`, in model space."""
    result = sample_guided(
        Guider(checkpoint.model, lists, rule),
        latent,
        noise=Noise(SEED),
        sampler=Sampler("euler"),
        sigmas=Sigmas(euler(steps).sigmas),
    )
    return to_model_space(result.latent.samples, checkpoint.model.spec.latent)


def text(width: int, seed: int) -> Conditioning:
    return Conditioning((Condition(noise(1, 77, width, seed=seed)),))
