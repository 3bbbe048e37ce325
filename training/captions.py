"""Gives the text encoder a start: from a caption, predict the picture's latent, coarsely and without noise.

The denoiser reads text through cross-attention alone and takes long to find out that the words matter. Here the mean
of all token outputs, which is what untrained cross-attention sees, has to predict the latent averaged to 8x8. Steps
need no denoiser, so a few minutes show every caption several times.

    python -m training.captions --work WORK --minutes 6
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextModel

from .latents import CAPTION_TOKENS, CAPTIONS, load_latents
from .loop import Clock, Training, add_run_arguments, fast_attention, half_precision, learning_rate, log, read_state
from .presets import DIFFUSIONS, LATENT_CHANNELS, preset_named
from .text import Vocabulary, build_text_encoder

SIDE = 8  # the latent's 16x16 averaged to this; coarse, since captions say nothing on detail
HOLD = 0.4  # share of the run at the peak learning rate
BATCH, RATE = 384, 3e-3  # steps are far cheaper than the denoiser's


class CaptionToLatent(nn.Module):
    """A text encoder with one linear layer on the mean of its outputs."""

    def __init__(self, text: CLIPTextModel, width: int) -> None:
        super().__init__()
        self.text = text
        self.head = nn.Linear(width, LATENT_CHANNELS * SIDE * SIDE)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns the predicted latent (n, 4, 8, 8) for embedding rows (n, tokens)."""
        pooled = self.text(input_ids=rows).last_hidden_state.mean(1)
        latent: torch.Tensor = self.head(pooled).view(-1, LATENT_CHANNELS, SIDE, SIDE)
        return latent


def state_path(work: Path, preset: str) -> Path:
    return work / f"captions-{preset}.safetensors"


@torch.no_grad()
def load_start(text: CLIPTextModel, work: Path, preset: str) -> None:
    """Gives a text encoder its start; positions past the trained ones repeat the last of them."""
    tensors = read_state(state_path(work, preset))
    for name, p in text.named_parameters():
        p.copy_(tensors[f"average.text.{name}"])
        if name.endswith("position_embedding.weight"):
            p[CAPTION_TOKENS:] = p[CAPTION_TOKENS - 1]


def train(args: argparse.Namespace) -> None:
    preset = preset_named(args.preset, DIFFUSIONS)
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    cache = load_latents(args.work, args.autoencoder or args.preset)
    vocabulary = Vocabulary.of(cache.tokens)
    rows = vocabulary.rows(cache.tokens.long()).int().to(device)
    targets = F.adaptive_avg_pool2d(cache.latents.float(), SIDE).to(device)
    spread = float(targets.var(0).mean())
    network = CaptionToLatent(build_text_encoder(preset, len(vocabulary.ids)), preset.text_width).to(device)
    training = Training(network, decay=preset.decay, matrices=True)
    generator = torch.Generator(device).manual_seed(args.seed)
    batch, peak = args.batch or BATCH, args.lr or RATE
    clock, total, since = Clock(args.minutes), torch.zeros((), device=device), 0
    while clock.progress < 1:
        which = torch.randint(len(targets), (batch,), generator=generator, device=device)
        caption = torch.randint(CAPTIONS, (batch,), generator=generator, device=device)
        with half_precision(device), fast_attention(device):
            output = network(rows[which, caption].long())
        loss = F.mse_loss(output.float(), targets[which]) / spread
        rate = learning_rate(peak, step=training.step, warmup_steps=100, progress=clock.progress, hold=HOLD)
        training.take_step(loss, rate)
        total, since = total + loss.detach(), since + 1
        if training.step % 100 == 0:
            log("step %d  %.1f min  unexplained %.3f", training.step, clock.minutes, float(total / since))
            total, since = torch.zeros((), device=device), 0
    training.save(state_path(args.work, args.preset), minutes=clock.minutes)
    log("done: %d steps", training.step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser)
    parser.add_argument("--autoencoder", default=None, help="preset of the latent cache; default: --preset")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
