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
    UNet2DModel,
    VQModel,
)
from torch import Tensor
from torch.nn import functional

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


def kl(tiny: ModuleType, levels: int = 4, **options: Any) -> AutoencoderKL:
    return filled(tiny, AutoencoderKL(**_levels(levels), latent_channels=4, **options), gain=1.0)  # type: ignore[no-any-return]


def vq(tiny: ModuleType, **options: Any) -> VQModel:
    """An autoencoder of 4 pixels a cell, with a codebook."""
    return filled(tiny, VQModel(**_levels(3), num_vq_embeddings=32, **options), gain=1.0)  # type: ignore[no-any-return]


def _levels(number: int) -> dict[str, tuple[Any, ...]]:
    return {
        "block_out_channels": (32,) * number,
        "down_block_types": ("DownEncoderBlock2D",) * number,
        "up_block_types": ("UpDecoderBlock2D",) * number,
    }


def plain_unet(tiny: ModuleType, in_channels: int = 3, **options: Any) -> UNet2DModel:
    """A UNet that attends to nothing but the picture."""
    network = UNet2DModel(
        sample_size=16,
        in_channels=in_channels,
        out_channels=3,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
        **options,
    )
    return filled(tiny, network)  # type: ignore[no-any-return]


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


def ldm_unet(state: Mapping[str, Tensor], layout: Any, x: Tensor, t: Tensor) -> Tensor:
    """LDM's UNetModel without text, written from the paper's code base as plain functions: an oracle for key maps and heads."""

    def heads_of(width: int) -> int:
        return layout.head_count or width // 32

    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        w = state[f"{name}.weight"]
        return functional.conv2d(x, w, state[f"{name}.bias"], stride=stride, padding=w.shape[-1] // 2)

    def norm(name: str, x: Tensor) -> Tensor:
        return functional.group_norm(x, 32, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)

    def res(name: str, x: Tensor, resample: Any = None) -> Tensor:
        h = functional.silu(norm(f"{name}.in_layers.0", x))
        if resample is not None:
            h, x = resample(h), resample(x)
        h = conv(f"{name}.in_layers.2", h)
        emb = linear(f"{name}.emb_layers.1", functional.silu(time))[..., None, None]
        if layout.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = norm(f"{name}.out_layers.0", h) * (1 + scale) + shift
        else:
            h = norm(f"{name}.out_layers.0", h + emb)
        h = conv(f"{name}.out_layers.3", functional.silu(h))
        return (conv(f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in state else x) + h

    def attention(name: str, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        heads = heads_of(c)
        qkv = functional.conv1d(
            norm(f"{name}.norm", x).flatten(2), state[f"{name}.qkv.weight"], state[f"{name}.qkv.bias"]
        )
        q, k, v = qkv.reshape(b * heads, 3 * c // heads, -1).split(c // heads, dim=1)
        weights = torch.einsum("bct,bcs->bts", q, k).div((c // heads) ** 0.5).softmax(dim=-1)
        a = torch.einsum("bts,bcs->bct", weights, v).reshape(b, c, -1)
        a = functional.conv1d(a, state[f"{name}.proj_out.weight"], state[f"{name}.proj_out.bias"])
        return x + a.reshape(b, c, height, width)

    half = layout.channels // 2
    angles = t[:, None] * torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(half) / half)
    time = torch.cat([angles.cos(), angles.sin()], dim=-1)
    time = linear("time_embed.2", functional.silu(linear("time_embed.0", time)))
    shrink, grow = (lambda h: functional.avg_pool2d(h, 2)), (lambda h: functional.interpolate(h, scale_factor=2.0))
    h = conv("input_blocks.0.0", x)
    skips, n = [h], 1
    for level in range(len(layout.mult)):
        for _ in range(layout.blocks):
            h = res(f"input_blocks.{n}.0", h)
            h = attention(f"input_blocks.{n}.1", h) if level in layout.attention else h
            skips.append(h)
            n += 1
        if level < len(layout.mult) - 1:
            name = f"input_blocks.{n}.0"
            h = res(name, h, shrink) if layout.updown else conv(f"{name}.op", h, stride=2)
            skips.append(h)
            n += 1
    h = res("middle_block.2", attention("middle_block.1", res("middle_block.0", h)))
    m = 0
    for level in reversed(range(len(layout.mult))):
        for i in range(layout.blocks + 1):
            h = res(f"output_blocks.{m}.0", torch.cat([h, skips.pop()], dim=1))
            attends = level in layout.attention
            h = attention(f"output_blocks.{m}.1", h) if attends else h
            if level and i == layout.blocks:
                name = f"output_blocks.{m}.{2 if attends else 1}"
                h = res(name, h, grow) if layout.updown else conv(f"{name}.conv", grow(h))
            m += 1
    return conv("out.2", functional.silu(norm("out.0", h)))
