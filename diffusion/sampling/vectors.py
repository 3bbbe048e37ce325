"""A network's vector conditioning, made from a condition: pooled text and sizes, or what pictures show.

Pictures: Ramesh et al. 2022, arXiv:2204.06125 (unCLIP), with the noise augmentation of Stable Diffusion 2.1 unCLIP. Results
as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor

from ..families.specs import ModelSpec, SizeNumber
from ..types import Condition, PicturePrompt, PictureSize
from .noise_levels import NoiseTable, noise_table

SCORE, NEGATIVE_SCORE = 6.0, 2.5  # of the refiner's training pictures, of 10; Podell et al. 2023, arXiv:2307.01952
NOISE_LEVELS = 1000  # of a picture's embedding
MERGED_NOISE = 0.05  # of several pictures in one
SEED_OFFSET = 10  # between a run's seed and that of its pictures' noise


class VectorInputs(NamedTuple):
    """pooled: (1, P) or None; sizes: (1, n) or None, both on the latent's device."""

    pooled: Tensor | None
    sizes: Tensor | None


def vector_of(
    condition: Condition, *, spec: ModelSpec, latent: Tensor, negative: bool = False, seed: int = 0
) -> VectorInputs:
    """Returns the vector conditioning of a network of `spec`; nothing for one without.

    negative: whether the condition says what to avoid. seed: of the run. Raises ValueError where the condition is not one for
    this network.
    """
    network, device = spec.network, latent.device
    width = network.picture_width
    shown = None
    if condition.pictures and width is not None:
        _check_pictures(condition, width, spec)
        shown = picture_vector(condition.pictures, spec, seed=seed)
    sizes = None
    if network.size_numbers:
        h, w = (side * spec.latent.downscale for side in latent.shape[-2:])
        numbers = size_numbers(condition.size, network.size_numbers, height=h, width=w, negative=negative)
        sizes = torch.tensor([numbers], dtype=torch.float32, device=device)
    if network.pooled_width is not None:
        pooled = _pooled(condition, spec) if shown is None else shown[:, : network.pooled_width]
        return VectorInputs(pooled.to(device), sizes)
    if width is None:
        return VectorInputs(None, None)
    return VectorInputs((torch.zeros(1, 2 * width) if shown is None else shown).to(device), sizes)


def size_numbers(
    size: PictureSize, names: Sequence[SizeNumber], *, height: int, width: int, negative: bool = False
) -> tuple[float, ...]:
    """Returns what SDXL's networks are told of a picture: sizes in pixels, and of the refiner's how beautiful it is.

    height, width: what a size that is not given defaults to. Podell et al. 2023, arXiv:2307.01952, section 2.2.
    """
    original_height = height if size.height is None else size.height
    original_width = width if size.width is None else size.width
    score = size.aesthetic_score
    known: dict[SizeNumber, float] = {
        "height": original_height,
        "width": original_width,
        "crop_y": size.crop_y,
        "crop_x": size.crop_x,
        "target_height": original_height if size.target_height is None else size.target_height,
        "target_width": original_width if size.target_width is None else size.target_width,
        "aesthetic_score": (NEGATIVE_SCORE if negative else SCORE) if score is None else score,
    }
    return tuple(known[name] for name in names)


def picture_vector(pictures: Sequence[PicturePrompt], spec: ModelSpec, *, seed: int) -> Tensor:
    """Returns (1, 2 * D): pictures' embeddings with noise mixed in, and how much that is, as a sinusoid.

    Several pictures are summed by their strength, and then take a little noise together.
    """
    draws = torch.Generator()
    parts = []
    for picture in pictures:
        for embedding in picture.embeddings:
            draws.manual_seed((seed - SEED_OFFSET) % (1 << 64))
            parts.append(_noised(embedding[None], picture.noise, draws, spec) * picture.strength)
    if len(parts) == 1:
        return parts[0]
    merged = torch.stack(parts).sum(dim=0)
    return _noised(merged[:, : merged.shape[-1] // 2], MERGED_NOISE, draws, spec)


def _noised(embedding: Tensor, noise: float, draws: torch.Generator, spec: ModelSpec) -> Tensor:
    level = round((NOISE_LEVELS - 1) * noise)
    signal, spread = _noise_table()[level]
    epsilon = torch.randn(embedding.shape, generator=draws)
    mean, std = torch.tensor(spec.picture_mean or (0.0,)), torch.tensor(spec.picture_std or (1.0,))
    noised = (signal * ((embedding - mean) / std) + spread * epsilon) * std + mean
    sinusoid = get_timestep_embedding(
        torch.tensor([level]), embedding.shape[-1], flip_sin_to_cos=True, downscale_freq_shift=0
    )
    return torch.cat([noised, sinusoid], dim=-1)


@cache
def _noise_table() -> NoiseTable:
    """Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17: the cosine schedule."""

    def kept(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    return noise_table(
        min(1.0 - kept((n + 1) / NOISE_LEVELS) / kept(n / NOISE_LEVELS), 0.999) for n in range(NOISE_LEVELS)
    )


def _check_pictures(condition: Condition, width: int, spec: ModelSpec) -> None:
    for picture in condition.pictures:
        found = picture.embeddings.shape
        if len(found) != 2 or found[-1] != width:
            raise ValueError(
                f"a picture's embedding has the shape {list(found)}, but a {spec.family} network is told of pictures by "
                f"{width} numbers each; show them to the vision tower of the model's own checkpoint."
            )


def _pooled(condition: Condition, spec: ModelSpec) -> Tensor:
    width = spec.pooled_width
    found = "none" if condition.pooled is None else f"one of width {condition.pooled.shape[-1]}"
    if condition.pooled is None or condition.pooled.shape[-1] != width:
        raise ValueError(
            f"a {spec.family} network takes a pooled text vector of width {width}, but the condition has {found}; "
            "encode the prompt with the text encoder of the same model family."
        )
    return condition.pooled
