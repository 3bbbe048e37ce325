"""How each kind of autoencoder is called: its network's own units and numbers on one side, VAE space on the other.

Knows no batches, no tiles and no pictures as people have them; `autoencoder` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..families.autoencoders import PATCH, ConsistencySpec, KLSpec, PatchedKLSpec, TinySpec, VaeSpec, VQSpec

CODES_AT_ONCE = 4096  # latent cells that are compared with a codebook at a time
SEEDS = 1 << 64


@singledispatch
def encode_pixels(spec: VaeSpec, network: Any, x: Tensor) -> Tensor:
    """Returns latents in VAE space, (B, C, h, w), for pictures in -1..1, (B, 3, H, W): float32 on the network's device.

    What is random in a kind's latents is left out: they are the mean.
    """
    raise TypeError(f"{type(spec).__name__} is no kind of autoencoder")


@encode_pixels.register
def _(spec: KLSpec | ConsistencySpec, network: Any, x: Tensor) -> Tensor:
    mean: Tensor = network.encode(_ready(network, x)).latent_dist.mean
    return mean.float()


@encode_pixels.register
def _(spec: PatchedKLSpec, network: Any, x: Tensor) -> Tensor:
    mean: Tensor = network.encode(_ready(network, x)).latent_dist.mean.float()
    center, spread = _statistics(network)
    return (functional.pixel_unshuffle(mean, PATCH) - center) / spread


@encode_pixels.register
def _(spec: VQSpec, network: Any, x: Tensor) -> Tensor:
    """What the codebook is compared with: decoding chooses the codes, so that sampling need not hit them."""
    latents: Tensor = network.encode(_ready(network, x)).latents
    return latents.float()


@encode_pixels.register
def _(spec: TinySpec, network: Any, x: Tensor) -> Tensor:
    latents: Tensor = network.encode(_ready(network, x)).latents
    return latents.float() / spec.scale + spec.shift


@singledispatch
def decode_latents(spec: VaeSpec, network: Any, z: Tensor, *, seeds: Sequence[int]) -> Tensor:
    """Returns pictures in -1..1, (B, 3, H, W), for float32 latents in VAE space: in the network's format, on its device.

    seeds: of each item's noise, for kinds that draw some.
    """
    raise TypeError(f"{type(spec).__name__} is no kind of autoencoder")


@decode_latents.register
def _(spec: KLSpec, network: Any, z: Tensor, *, seeds: Sequence[int]) -> Tensor:
    return _decode(network, z)


@decode_latents.register
def _(spec: PatchedKLSpec, network: Any, z: Tensor, *, seeds: Sequence[int]) -> Tensor:
    center, spread = _statistics(network)
    return _decode(network, functional.pixel_shuffle(z.to(network.device) * spread + center, PATCH))


@decode_latents.register
def _(spec: VQSpec, network: Any, z: Tensor, *, seeds: Sequence[int]) -> Tensor:
    rows = max(1, CODES_AT_ONCE // (len(z) * z.shape[-1]))
    z = z.to(network.device)
    codes = torch.cat([network.quantize(part)[0] for part in torch.split(z, rows, dim=2)], dim=2)
    return _decode(network, codes, force_not_quantize=True)


@decode_latents.register
def _(spec: TinySpec, network: Any, z: Tensor, *, seeds: Sequence[int]) -> Tensor:
    return _decode(network, (z - spec.shift) * spec.scale)


@decode_latents.register
def _(spec: ConsistencySpec, network: Any, z: Tensor, *, seeds: Sequence[int]) -> Tensor:
    """Two steps from noise. An item's noise is its own, whatever is decoded with it."""
    generators = (torch.Generator().manual_seed(seed % SEEDS) for seed in seeds)
    return torch.cat(
        [
            _decode(network, item, generator=generator)
            for item, generator in zip(torch.split(z, 1), generators, strict=True)
        ]
    )


def _decode(network: Any, z: Tensor, **options: Any) -> Tensor:
    pictures: Tensor = network.decode(z.to(network.device, network.dtype), return_dict=False, **options)[0]
    return pictures


def _statistics(network: Any) -> tuple[Tensor, Tensor]:
    """The mean and the std of each channel of FLUX.2's latents, (1, C, 1, 1), float32."""
    mean, variance = (each.float().reshape(1, -1, 1, 1) for each in (network.bn.running_mean, network.bn.running_var))
    return mean, torch.sqrt(variance + network.bn.eps)


def _ready(network: Any, x: Tensor) -> Tensor:
    """The pictures in the network's format; always in one layout in memory, which moves the last bits."""
    return x.to(network.device, network.dtype).clone(memory_format=torch.channels_last)
