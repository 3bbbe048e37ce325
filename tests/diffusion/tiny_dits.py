"""Small diffusion transformers with made-up weights, in diffusers' layout and in the ones that they were first published in.

`tiny` has the other parts of a checkpoint, and what writes files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2
from torch import Tensor

from latentgraph.diffusion.checkpoints.export import stacked
from latentgraph.diffusion.families.dit_specs import Flux2Spec, FluxSpec, MMDiTSpec
from latentgraph.diffusion.families.specs import DenoiserSpec
from latentgraph.diffusion.layouts.autoencoder_keys import vae_destinations
from latentgraph.diffusion.layouts.autoencoder_structure import read_vae
from latentgraph.diffusion.layouts.kinds import kind_of
from latentgraph.diffusion.networks.building import build_denoiser

NETWORK = "model.diffusion_model."
SD3 = MMDiTSpec(
    in_channels=16, out_channels=16, width=64, depth=3, heads=1, context_width=48, pooled_width=40, positions=16
)
SD35 = replace(SD3, width=64, heads=2, query_norm=True, dual_attention=(0, 1))
FLUX = FluxSpec(
    in_channels=16,
    out_channels=16,
    width=64,
    heads=2,
    double_blocks=2,
    single_blocks=2,
    context_width=48,
    pooled_width=24,
    guidance=True,
    axes=(4, 14, 14),
)
SCHNELL = replace(FLUX, guidance=False)
FILL = replace(FLUX, in_channels=96)
FLUX2 = Flux2Spec(
    in_channels=128,
    out_channels=128,
    width=64,
    heads=2,
    double_blocks=2,
    single_blocks=2,
    context_width=48,
    mlp_width=192,
    time_width=256,
    guidance=True,
    axes=(8, 8, 8, 8),
)
SPECS: Mapping[str, DenoiserSpec] = {
    "SD3": SD3,
    "SD3.5": SD35,
    "FLUX": FLUX,
    "schnell": SCHNELL,
    "fill": FILL,
    "FLUX.2": FLUX2,
}


def weights(spec: DenoiserSpec, seed: int = 0) -> dict[str, Tensor]:
    """Returns made-up weights by diffusers' names, in float32: of a size at which each block matters and none runs off."""
    draws = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, tensor in build_denoiser(spec).state_dict().items():
        w = torch.randn(tensor.shape, generator=draws)
        if tensor.ndim < 2:
            tensors[name] = 1.0 + 0.1 * w if "norm" in name and name.endswith("weight") else 0.1 * w
        else:
            tensors[name] = w * (0.7 / (tensor[0].numel() ** 0.5))
    return tensors


def network(spec: DenoiserSpec, seed: int = 0) -> Any:
    """Returns diffusers' network with these weights."""
    built = build_denoiser(spec)
    built.load_state_dict(weights(spec, seed), assign=True)
    return built.eval().requires_grad_(False)


def original(spec: DenoiserSpec, tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Returns a network's tensors, given by diffusers' names, as its makers name and stack them."""
    file = {}
    for destination in kind_of(spec).destinations(spec, tensors):
        file[prefix + destination.key] = stacked([tensors[name] for name in destination.names], destination)
    return {key: tensor.clone() for key, tensor in file.items()}


def published_shapes(spec: DenoiserSpec) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a network's tensors in the layout of its makers."""
    table = {"pos_embed.pos_embed": (1, spec.positions**2, spec.width)} if isinstance(spec, MMDiTSpec) else {}
    shapes = table | dict(kind_of(spec).layout(spec))
    return {
        each.key: (sum(shapes[name][0] for name in each.names), *shapes[each.names[0]][1:])
        for each in kind_of(spec).destinations(spec, shapes)
    }


def stability_control(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of a ControlNet for SD3.5 large, given by diffusers' names, as Stability AI names and stacks them."""
    names = {".norm1.linear.": ".adaLN_modulation.1.", ".attn.to_out.0.": ".attn.proj.", ".ff.net.0.proj.": ".mlp.fc1.",
             ".ff.net.2.": ".mlp.fc2."}  # fmt: skip
    file = {}
    for key, w in weights.items():
        if ".attn.to_q." in key:
            parts = [weights[key.replace(".to_q.", f".to_{part}.")] for part in "qkv"]
            file[key.replace(".to_q.", ".qkv.")] = torch.cat(parts)
        elif not any(f".attn.to_{part}." in key for part in "kv"):
            for ours, theirs in names.items():
                key = key.replace(ours, theirs)
            file[key] = w
    return file


def xlabs_control(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of a ControlNet for FLUX.1 with two double blocks, given by diffusers' names, as XLabs has them."""
    names = {"controlnet_x_embedder.": "pos_embed_input.", "input_hint_block.conv_in.": "input_hint_block.0.",
             "input_hint_block.conv_out.": "input_hint_block.14."}  # fmt: skip
    names |= {f"input_hint_block.blocks.{n}.": f"input_hint_block.{2 * n + 2}." for n in range(6)}
    file = {}
    for key, w in original(replace(FLUX, single_blocks=0), weights).items():
        ours = next((name for name in names if key.startswith(name)), "")
        file[names.get(ours, "") + key.removeprefix(ours)] = w
    return file


def vae(latent_channels: int = 16) -> Any:
    """Returns diffusers' autoencoder as SD3 and FLUX have it, small: without 1x1 convolutions, its latents all but certain."""
    network = AutoencoderKL(
        latent_channels=latent_channels,
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,  # FLUX's, which its pipelines read here
        shift_factor=0.1159,
    )
    draws = torch.Generator().manual_seed(5)
    for name, w in network.state_dict().items():
        noise = torch.randn(w.shape, generator=draws)
        w.copy_(noise / w[0].numel() ** 0.5 if w.ndim > 1 else 0.1 * noise + name.endswith("weight"))
    network.encoder.conv_out.weight.data[latent_channels:] = 0.0
    network.encoder.conv_out.bias.data[latent_channels:] = -30.0  # the logarithm of the latents' variance
    return network.eval().requires_grad_(False)


def flux2_vae() -> Any:
    """Returns diffusers' autoencoder as FLUX.2 has it, small."""
    network = AutoencoderKLFlux2(
        latent_channels=32,
        block_out_channels=(32, 32, 32, 64),
        decoder_block_out_channels=(32, 64, 32, 32),
        layers_per_block=1,
    )
    draws = torch.Generator().manual_seed(6)
    for name, w in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = torch.randn(w.shape, generator=draws)
        w.copy_(noise / w[0].numel() ** 0.5 if w.ndim > 1 else 0.1 * noise + name.endswith(("weight", "_var")))
    return network.eval().requires_grad_(False)


def checkpoint(spec: DenoiserSpec, *, vae_prefix: str) -> dict[str, Tensor]:
    """Returns a transformer and its VAE as one file has them; text encoders are left out."""
    network = vae()
    shapes = {key: tuple(w.shape) for key, w in network.state_dict().items()}
    tensors = original(spec, weights(spec), NETWORK)
    for each in vae_destinations(read_vae(shapes), shapes):
        w = network.state_dict()[each.names[0]]
        tensors[vae_prefix + each.key] = (w[:, :, None, None] if each.kernel else w).clone()
    return tensors
