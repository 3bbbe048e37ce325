"""Writes a trained model as one SD1 single-file checkpoint: original key names, float16, modelspec header.

The latent's mean and std are folded into the autoencoder's two 1x1 convolutions, so that a latent times 0.18215 has
unit std, as in SD1.

    python -m training.export --work WORK --out models/emoji.safetensors
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch.nn import functional as F

from .autoencoder import load_autoencoder
from .diffusion import TextToNoise, state_path
from .latents import LatentCache, load_latents
from .layout import with_places
from .loop import load_average, log, read_state
from .presets import DIFFUSIONS, LATENT_SCALE, preset_named
from .text import Vocabulary

LIMIT_BYTES = 60_000_000
FLOAT16_MAX = 65504.0


def fold_scale(autoencoder: AutoencoderKL, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Makes the network's latents those of SD1: (raw - mean) / std / 0.18215 by channel; `mean` and `std` are (4,)."""
    scale = std * LATENT_SCALE
    channels = len(mean)
    quant, post = autoencoder.quant_conv, autoencoder.post_quant_conv
    with torch.no_grad():
        quant.bias[:channels] = (quant.bias[:channels] - mean) / scale
        quant.weight[:channels] /= scale[:, None, None, None]
        quant.bias[channels:] -= 2 * scale.log()  # the second half is a log variance
        post.bias += post.weight[:, :, 0, 0] @ mean
        post.weight *= scale[None, :, None, None]


@torch.no_grad()
def fit_colours(autoencoder: AutoencoderKL, cache: LatentCache, count: int = 256) -> list[list[float]]:
    """Returns five rows of R, G and B in -1..1: what each channel of a unit-std latent adds to a preview, and a constant.

    A least-squares fit of decoded training pictures, averaged to one pixel a latent cell. To be called before `fold_scale`.
    """
    which = torch.randperm(len(cache.latents), generator=torch.Generator().manual_seed(0))[:count]
    latents = cache.latents[which].float()
    raw = latents * cache.std[:, None, None] + cache.mean[:, None, None]
    pictures = torch.cat([autoencoder.decode(part).sample for part in torch.split(raw, 16)])
    cells = torch.cat([latents, torch.ones_like(latents[:, :1])], 1).movedim(1, -1).flatten(0, -2)
    wanted = F.avg_pool2d(pictures, pictures.shape[-1] // latents.shape[-1]).movedim(1, -1).flatten(0, -2)
    rows: list[list[float]] = torch.linalg.lstsq(cells, wanted).solution.tolist()
    return [[round(value, 4) for value in row] for row in rows]


def checkpoint_tensors(
    network: TextToNoise, autoencoder: AutoencoderKL, vocabulary: Vocabulary
) -> dict[str, torch.Tensor]:
    """Returns every tensor of the file in float16, by its name in the layout."""
    tensors: dict[str, torch.Tensor] = {}
    for part, places in with_places(network.unet, autoencoder, network.text):
        state = part.state_dict()
        for name, place in places.items():
            value = vocabulary.expand(state[name]) if name.endswith("token_embedding.weight") else state[name]
            if not bool((value.abs() < FLOAT16_MAX).all()):
                raise ValueError(f"{place.key}: a value does not fit float16; train on with a lower learning rate")
            shape = (*value.shape, 1, 1) if place.kernel else value.shape
            tensors[place.key] = value.reshape(shape).half().contiguous()
    return tensors


def header(title: str, description: str, presets: str, colours: list[list[float]]) -> dict[str, str]:
    """Returns the file's metadata: Stability AI's modelspec 1.0.1, preview colours, and the presets for `measure`."""
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.implementation": "https://github.com/CompVis/stable-diffusion",
        "modelspec.title": title,
        "modelspec.description": description,
        "modelspec.author": "latentgraph",
        "modelspec.date": datetime.date.today().isoformat(),
        "modelspec.license": "Training artwork: Noto Emoji (Apache-2.0, Google), Fluent Emoji (MIT, Microsoft)",
        "modelspec.resolution": "128x128",
        "modelspec.prediction_type": "epsilon",
        "latentgraph.colours": json.dumps(colours),
        "latentgraph.presets": presets,
    }


def export(work: Path, *, preset_name: str, autoencoder_preset: str, out: Path) -> None:
    preset = preset_named(preset_name, DIFFUSIONS)
    state = read_state(state_path(work, preset_name))
    vocabulary = Vocabulary(state["vocabulary"])
    network = TextToNoise(preset, len(vocabulary.ids))
    load_average(network, state)
    autoencoder = load_autoencoder(work, autoencoder_preset)
    colours = fit_colours(autoencoder, load_latents(work, autoencoder_preset))
    fold_scale(autoencoder, state["mean"], state["std"])
    tensors = checkpoint_tensors(network, autoencoder, vocabulary)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    if size > LIMIT_BYTES:
        raise ValueError(f"{out}: {size / 1e6:.1f} MB, over the {LIMIT_BYTES / 1e6:.0f} MB limit; use a smaller preset")
    steps, minutes = state["progress"].tolist()
    description = f"Draws emoji-like pictures from text at 128x128. {steps:.0f} steps, {minutes:.0f} minutes."
    out.parent.mkdir(parents=True, exist_ok=True)
    metadata = header("emoji", description, f"{preset_name}/{autoencoder_preset}", colours)
    save_file(tensors, out, metadata=metadata)
    log("%s: %d tensors, %.1f MB", out, len(tensors), size / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--preset", default="small", help="diffusion preset")
    parser.add_argument("--autoencoder", default=None, help="autoencoder preset; default: --preset")
    parser.add_argument("--out", type=Path, required=True, help="file to write, .safetensors")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    export(args.work, preset_name=args.preset, autoencoder_preset=args.autoencoder or args.preset, out=args.out)


if __name__ == "__main__":
    main()
