"""What it saves to denoise latents instead of pixels: one network in both spaces, for one picture.

    python -m benchmarks.latent_vs_pixel [--side PIXELS] [--rounds N] [--device cuda]

The network is the bundled model's with made-up weights, which attends at its innermost level alone: once with 4 channels, for
latents of an eighth of the side, and once with 3, for pixels. Prompt and negative prompt go through it together, as for a
picture with guidance. The way back from a latent to pixels, by an autoencoder of Stable Diffusion's size, is counted too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from latentgraph.diffusion.families.autoencoders import KLSpec
from latentgraph.diffusion.families.specs import LatentFormat, ModelSpec, UNetSpec
from latentgraph.diffusion.networks.autoencoders import build_vae
from latentgraph.diffusion.networks.precision import NumericPolicy, resolve

from .networks import call_inputs, made_up_unet, median, seconds, unet_of

NETWORK = UNetSpec(
    in_channels=4,
    out_channels=4,
    widths=(64, 160, 288),
    res_blocks=(1, 1, 1),
    depths_in=((0,), (0,), (1,)),
    depths_out=((1, 1), (0, 0), (0, 0)),
    depth_middle=1,
    heads=(8, 8, 8),
    context_width=128,
    linear_projection=False,
)
LATENT = ModelSpec("latent", NETWORK, LatentFormat(4, 1.0, downscale=8), "eps", 512)
PIXEL = ModelSpec(
    "pixel", replace(NETWORK, in_channels=3, out_channels=3), LatentFormat(3, 1.0, downscale=1), "eps", 512
)
VAE = KLSpec(latent_channels=4, widths=(128, 256, 512, 512), encoder_blocks=2)
STEPS = 20


def step(spec: ModelSpec, side: int, policy: NumericPolicy) -> Callable[[], object]:
    """Returns a call of the network for one step of a picture of this side in pixels."""
    network: Any = made_up_unet(unet_of(spec), policy.unet, policy.device, policy.memory_format)
    x, context, _ = call_inputs(spec, side, policy.unet, policy.device)
    x = x.contiguous(memory_format=policy.memory_format)
    timestep = torch.tensor(500.0, device=policy.device)
    return lambda: network(x, timestep, context, return_dict=False)


def decoding(side: int, policy: NumericPolicy) -> Callable[[], object]:
    """Returns a call that decodes one picture."""
    vae: Any = build_vae(VAE).to_empty(device=policy.device)
    draw = torch.Generator(policy.device).manual_seed(0)
    for weight in vae.parameters():
        weight.data.uniform_(-0.02, 0.02, generator=draw)
    to: Any = torch.nn.Module.to  # diffusers' own warns of every cast
    vae = to(vae, policy.vae, memory_format=policy.memory_format).requires_grad_(False).eval()
    z = torch.randn(1, 4, side // 8, side // 8).to(policy.device, policy.vae, memory_format=policy.memory_format)
    return lambda: vae.decode(z, return_dict=False)


def main() -> None:
    """Measures everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    policy = resolve("auto", given.device)
    with torch.inference_mode():
        calls = {
            "latent": step(LATENT, given.side, policy),
            "pixel": step(PIXEL, given.side, policy),
            "decode": decoding(given.side, policy),
        }
        for call in calls.values():
            call()  # a first call is not measured
        rounds = [{name: seconds(call, policy.device) for name, call in calls.items()} for _ in range(given.rounds)]
    pictures = [(STEPS * one["latent"] + one["decode"], STEPS * one["pixel"]) for one in rounds]
    table = Table("figure", "measured", box=None)
    table.add_row("number format", f"{policy.unet} on {policy.device}")
    for name, title in (("latent", "a step on latents"), ("pixel", "a step on pixels"), ("decode", "decoding once")):
        table.add_row(title, f"{median([one[name] for one in rounds]):.3f} s")
    table.add_row("a step: pixels / latents", f"{median([one['pixel'] / one['latent'] for one in rounds]):.0f} x")
    table.add_row(
        f"a picture of {STEPS} steps, decoding included: pixels / latents",
        f"{median([b / a for a, b in pictures]):.0f} x",
    )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
