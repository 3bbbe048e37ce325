"""Trains the denoiser and its text encoder together on cached latents.

The network predicts the noise of SD1's discrete schedule; losses are weighted by min-SNR (Hang et al. 2023,
arXiv:2303.09556, gamma 5) with a floor, so that high noise counts. The denoiser sees latents of unit std; the constant
0.18215 enters only at export, where it is folded into the autoencoder. One caption in ten is empty, for
classifier-free guidance.

    python -m training.diffusion --work WORK --minutes 70
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from .captions import load_start
from .latents import CAPTIONS, LatentCache, load_latents
from .loop import (
    Clock,
    Training,
    add_run_arguments,
    fast_attention,
    half_precision,
    learning_rate,
    log,
    memory_format,
    read_state,
)
from .presets import DIFFUSIONS, TOKENS, DiffusionPreset, preset_named
from .text import END, START, UNSEEN_ROW, Vocabulary, build_text_encoder

EMPTY_SHARE = 0.1
UNSEEN_SHARE = 0.02  # words replaced by the row of unseen tokens
MIN_SNR_GAMMA = 5.0
MIN_SNR_FLOOR = 1.0  # as a loss on the picture, high noise weighs at least this: there the text decides what is drawn
HOLD = 0.35  # share of the run at the peak learning rate
BETAS = (0.00085, 0.012)  # SD1: linear in the square root over 1000 steps


def alphas_cumprod() -> torch.Tensor:
    """Returns (1000,) float64, SD1's signal power by timestep (CompVis stable-diffusion, v1-inference.yaml)."""
    betas = torch.linspace(BETAS[0] ** 0.5, BETAS[1] ** 0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def state_path(work: Path, preset: str) -> Path:
    return work / f"diffusion-{preset}.safetensors"


class TextToNoise(nn.Module):
    """The two networks trained together: CLIP text rows to context, then latents, timesteps and context to noise."""

    def __init__(self, preset: DiffusionPreset, rows: int) -> None:
        super().__init__()
        self.text: CLIPTextModel = build_text_encoder(preset, rows)
        self.unet: UNet2DConditionModel = preset.build_unet()
        _start_blocks_at_zero(self.unet)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Returns the predicted noise, shaped as `x` (n, 4, h, w); `rows` (n, 77) are embedding rows."""
        context = self.text(input_ids=rows).last_hidden_state
        noise: torch.Tensor = self.unet(x, timesteps, encoder_hidden_states=context).sample
        return noise


def _start_blocks_at_zero(unet: UNet2DConditionModel) -> None:
    """Zeroes the last layer of every residual branch and of the network, as the original UNet does (zero_module)."""
    for name, module in unet.named_modules():
        if name == "conv_out" or (name.endswith((".conv2", ".proj_out")) and isinstance(module, nn.Conv2d)):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class LatentSource:
    """Draws training examples from a latent cache held on one device; their timesteps are spread evenly."""

    def __init__(self, cache: LatentCache, vocabulary: Vocabulary, device: torch.device, seed: int) -> None:
        self.latents = cache.latents.to(device)
        self.rows = vocabulary.rows(cache.tokens.long()).int().to(device)
        self.start, self.end = (int(vocabulary.rows(torch.tensor(i))) for i in (START, END))
        self.alphas = alphas_cumprod().float().to(device)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.device = device

    def draw(self, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns noisy latents, timesteps, embedding rows (count, 77), the noise, and the loss weights (count,)."""
        which, caption = self._integers(len(self.latents), count), self._integers(CAPTIONS, count)
        rows = torch.full((count, TOKENS), self.end, device=self.device)
        words = self.rows[which, caption].long()
        forget = (self._chances(*words.shape) < UNSEEN_SHARE) & (words > self.end)
        rows[:, : words.shape[1]] = words.masked_fill(forget, UNSEEN_ROW)
        empty = self._chances(count) < EMPTY_SHARE
        rows[:, 1:].masked_fill_(empty[:, None], self.end)
        latents = self.latents[which].float()
        noise = torch.randn(latents.shape, generator=self.generator, device=self.device)
        timesteps = ((torch.arange(count, device=self.device) + self._chances(count)) * (1000 / count)).long()
        alpha = self.alphas[timesteps][:, None, None, None]
        snr = (alpha / (1 - alpha)).flatten()
        return (
            alpha.sqrt() * latents + (1 - alpha).sqrt() * noise,
            timesteps,
            rows,
            noise,
            snr.clamp(MIN_SNR_FLOOR, MIN_SNR_GAMMA) / snr,
        )

    def _chances(self, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device)

    def _integers(self, below: int, count: int) -> torch.Tensor:
        return torch.randint(below, (count,), generator=self.generator, device=self.device)


def train(args: argparse.Namespace) -> None:
    preset = preset_named(args.preset, DIFFUSIONS)
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    cache = load_latents(args.work, args.autoencoder or args.preset)
    path = state_path(args.work, args.preset)
    state = read_state(path) if args.resume else {}
    vocabulary = Vocabulary(state["vocabulary"]) if state else Vocabulary.of(cache.tokens)
    network = TextToNoise(preset, len(vocabulary.ids)).train()
    network.to(device)
    network.unet.to(memory_format=memory_format(device))
    training = Training(network, decay=preset.decay, matrices=True)
    if state:
        training.restore(state)
    if args.text_start:
        load_start(network.text, args.work, args.preset)
        training.forget(list(network.text.parameters()))
    source = LatentSource(cache, vocabulary, device, args.seed + training.step)
    for name, part in (("unet", network.unet), ("text", network.text)):
        log("%s: %.2f M parameters", name, sum(p.numel() for p in part.parameters()) / 1e6)
    extra = {"vocabulary": vocabulary.ids, "mean": cache.mean, "std": cache.std}
    if args.compile:
        network.compile()
    batch, peak = args.batch or preset.batch, args.lr or preset.lr
    clock, first_step, saved = Clock(args.minutes), training.step, 0.0
    total, since = torch.zeros((), device=device), 0
    while clock.progress < 1:
        x, timesteps, rows, noise, weights = source.draw(batch)
        with half_precision(device), fast_attention(device):
            output = network(x, timesteps, rows)
        loss = ((output.float() - noise).square().mean((1, 2, 3)) * weights).mean()
        warm = {"step": training.step - first_step, "warmup_steps": 200}
        training.take_step(loss, learning_rate(peak, **warm, progress=clock.progress, hold=HOLD))
        total, since = total + loss.detach(), since + 1
        if training.step % 100 == 0:
            log("step %d  %.1f min  loss %.4f", training.step, clock.minutes, float(total / since))
            total, since = torch.zeros((), device=device), 0
        if clock.minutes - saved > args.save_minutes:
            training.save(path, minutes=clock.minutes, extra=extra)
            saved = clock.minutes
    training.save(path, minutes=clock.minutes, extra=extra)
    log("done: %d steps, %.1f minutes in all", training.step, training.minutes + clock.minutes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser)
    parser.add_argument("--text-start", action="store_true", help="begin with the text encoder of training.captions")
    parser.add_argument("--autoencoder", default=None, help="preset of the latent cache; default: --preset")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
