"""Encodes the augmented pictures once, with captions, so that denoiser steps touch only the denoiser and the text.

python -m training.latents --work WORK --variants 4
"""

from __future__ import annotations

import argparse
import logging
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .augmentation import BACKGROUNDS, COLOURS, PLAIN, Recipe, compose, dominant_hues, recolour, write_caption
from .autoencoder import load_autoencoder
from .dataset import STYLES, load_pictures
from .loop import half_precision, log
from .text import tokenize

CAPTIONS = 6  # captions kept for each latent
CAPTION_TOKENS = 32  # longest caption kept; the rest of the 77 positions is padding
PLAIN_SHARE, WHITE_SHARE = 0.65, 0.6  # variants left in their colours; variants on white


@dataclass(frozen=True)
class LatentCache:
    """Latents (m, 4, 16, 16) float16 of unit std, and CLIP ids of their captions (m, CAPTIONS, 32) int32.

    `mean` and `std` (4,) are those of the autoencoder's raw latent, by channel: latents = (raw - mean) / std.
    `pictures` (m,) indexes the picture set.
    """

    latents: torch.Tensor
    tokens: torch.Tensor
    pictures: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor


def cache_path(work: Path, preset: str) -> Path:
    return work / f"latents-{preset}.safetensors"


def load_latents(work: Path, preset: str) -> LatentCache:
    path = cache_path(work, preset)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no latents. Run: python -m training.latents --work {work} --preset {preset}")
    return LatentCache(**load_file(path))


@torch.no_grad()
def make_latents(work: Path, preset: str, variants: int, device: torch.device, seed: int) -> LatentCache:
    """Returns `variants` latents of every picture; the first is as drawn on white, the others are drawn at random."""
    pictures = load_pictures(work)
    autoencoder = load_autoencoder(work, preset).to(device)
    rng = random.Random(seed)
    rgba_all = torch.from_numpy(pictures.rgba).permute(0, 3, 1, 2)
    latents, tokens, owners = [], [], []
    for part in torch.split(torch.arange(len(pictures)), 128 if device.type == "cuda" else 16):
        rgba = rgba_all[part].to(device).float() / 255
        hues = dominant_hues(rgba)
        for variant in range(variants):
            plain = [variant == 0 or rng.random() < PLAIN_SHARE for _ in part]
            white = [variant == 0 or rng.random() < WHITE_SHARE for _ in part]
            colours = [PLAIN if p else rng.randrange(len(COLOURS)) for p in plain]
            backgrounds = [0 if w else rng.randrange(1, len(BACKGROUNDS)) for w in white]
            picture = compose(
                recolour(rgba, hues, torch.tensor(colours, device=device)),
                torch.tensor(backgrounds, device=device),
            )
            with half_precision(device):
                latents.append(autoencoder.encode(picture * 2 - 1).latent_dist.mean.float().cpu())
            captions = [
                write_caption(Recipe(pictures.names[i], STYLES[pictures.styles[i]], background, colour), rng)
                for i, background, colour in zip(part.tolist(), backgrounds, colours, strict=True)
                for _ in range(CAPTIONS)
            ]
            tokens.append(tokenize(captions, CAPTION_TOKENS).int().view(len(part), CAPTIONS, -1))
            owners.append(part)
        if part[0] % 512 == 0:
            log("%d of %d pictures", int(part[-1]) + 1, len(pictures))
    raw = torch.cat(latents)
    mean, std = raw.mean((0, 2, 3)), raw.std((0, 2, 3))
    log("latents: mean %s, std %s before scaling", mean.tolist(), std.tolist())
    scaled = (raw - mean[:, None, None]) / std[:, None, None]
    return LatentCache(scaled.half().contiguous(), torch.cat(tokens), torch.cat(owners), mean, std)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--preset", default="small", help="autoencoder preset")
    parser.add_argument("--variants", type=int, default=4, help="latents of each picture")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(args.threads)
    cache = make_latents(args.work, args.preset, args.variants, torch.device(args.device), args.seed)
    save_file(vars(cache), cache_path(args.work, args.preset))
    log("%d latents", len(cache.latents))


if __name__ == "__main__":
    main()
