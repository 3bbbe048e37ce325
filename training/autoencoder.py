"""Trains the picture autoencoder: 128x128 RGB to a 4x16x16 latent and back.

The loss is on pixels and on their differences to the next pixel, which keeps outlines sharp without a second network;
a small KL term keeps the latent bounded. The latent scale is put right at export, not here.

    python -m training.autoencoder --work WORK --minutes 55
"""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional as F

from .augmentation import BACKGROUNDS, COLOURS, PLAIN, compose, dominant_hues, recolour
from .dataset import SIZE, load_pictures
from .loop import (
    Clock,
    Training,
    add_run_arguments,
    half_precision,
    learning_rate,
    load_average,
    log,
    memory_format,
    read_state,
)
from .presets import AUTOENCODERS, LATENT_CHANNELS, preset_named

KL_WEIGHT = 1e-6  # a sum over the latent, as LDM's kl-f8 configuration
LATENT_NOISE = 0.02  # keeps the decoder smooth around each latent
HOLD = 0.35  # share of the run at the peak learning rate
CUT = 64  # pixels; the first part of a run sees four times as many cut-outs for the same work
CUT_SHARE = 0.7  # share of a run on cut-outs; the rest sees whole pictures, as inference does


def state_path(work: Path, preset: str) -> Path:
    return work / f"autoencoder-{preset}.safetensors"


def load_autoencoder(work: Path, preset: str) -> AutoencoderKL:
    """Returns the averaged network of a saved state, in float32 on the CPU, ready to use."""
    network = preset_named(preset, AUTOENCODERS).build()
    load_average(network, read_state(state_path(work, preset)))
    return network.eval().requires_grad_(False)


def start_branches_at_zero(network: AutoencoderKL) -> None:
    """Zeroes the last layer of every residual branch, so that colour passes straight through from the first step."""
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and name.endswith((".conv2", ".to_out.0")):
            for value in module.parameters():
                nn.init.zeros_(value)


class Reconstruction(nn.Module):
    """The training pass as one module, so that it compiles as one: pictures and noise to pictures and latent means."""

    def __init__(self, network: AutoencoderKL) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (n, 3, h, w) in about [-1, 1] and the posterior mean (n, 4, h/8, w/8); `noise` is shaped as this."""
        mean = self.network.encode(pictures).latent_dist.mean
        return self.network.decode(mean + LATENT_NOISE * noise).sample, mean


class PictureSource:
    """Draws random training pictures from the whole set, held on one device."""

    def __init__(self, work: Path, device: torch.device, seed: int) -> None:
        pictures = load_pictures(work)
        self.rgba = torch.from_numpy(pictures.rgba).permute(0, 3, 1, 2).contiguous().to(device)
        self.hues = torch.cat([dominant_hues(part.float() / 255) for part in torch.split(self.rgba, 64)])
        self.generator = torch.Generator(device).manual_seed(seed)
        self.device = device

    def draw(self, count: int, size: int) -> torch.Tensor:
        """Returns (count, 3, size, size) in [-1, 1]: half recoloured, half mirrored, any background, cut out at random."""
        which = self._integers(len(self.rgba), count)
        rgba = self.rgba[which].float() / 255
        colours = self._integers(len(COLOURS), count)
        colours = torch.where(self._chances(count) < 0.5, colours, torch.full_like(colours, PLAIN))
        backgrounds = torch.where(self._chances(count) < 0.5, self._integers(len(BACKGROUNDS), count), 0)
        rgba = torch.where((self._chances(count) < 0.5)[:, None, None, None], rgba.flip(-1), rgba)
        picture = compose(recolour(rgba, self.hues[which], colours), backgrounds)
        if size == SIZE:
            shift = self._integers(17, 2).tolist()
            return picture.roll((shift[0] - 8, shift[1] - 8), (2, 3)) * 2 - 1
        corners = self._integers(SIZE - size + 1, 2 * count).tolist()
        cuts = [
            p[:, top : top + size, left : left + size]
            for p, top, left in zip(picture, corners[:count], corners[count:], strict=True)
        ]
        return torch.stack(cuts) * 2 - 1

    def noise(self, count: int, side: int) -> torch.Tensor:
        shape = (count, LATENT_CHANNELS, side, side)
        return torch.randn(shape, generator=self.generator, device=self.device)

    def _integers(self, below: int, count: int) -> torch.Tensor:
        return torch.randint(below, (count,), generator=self.generator, device=self.device)

    def _chances(self, count: int) -> torch.Tensor:
        return torch.rand(count, generator=self.generator, device=self.device)


def picture_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns the mean of absolute pixel errors, absolute errors of neighbour differences, and the log of squared errors.

    The logarithm, taken picture by picture, is PSNR but for a factor: a picture that is drawn well still counts.
    """
    error = output - target
    across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    decibels = (error.square().mean((1, 2, 3)) + 1e-5).log().mean()
    return error.abs().mean() + 0.1 * decibels + 0.25 * (across.abs().mean() + down.abs().mean())


def train(args: argparse.Namespace) -> None:
    preset = preset_named(args.preset, AUTOENCODERS)
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    network = preset.build().to(device, memory_format=memory_format(device))
    start_branches_at_zero(network)
    training = Training(network, decay=0.999, matrices=True)
    path = state_path(args.work, args.preset)
    if args.resume:
        training.restore(read_state(path))
    if args.freeze_encoder:
        training.adopt_average()
        for frozen in (network.encoder, network.quant_conv):
            frozen.requires_grad_(False)
    source = PictureSource(args.work, device, args.seed + training.step)
    log("autoencoder %s: %.2f M parameters", args.preset, sum(p.numel() for p in network.parameters()) / 1e6)
    run: nn.Module = Reconstruction(network)
    if args.compile:
        run.compile()
    batch, peak = args.batch or preset.batch, args.lr or preset.lr
    clock, first_step, saved = Clock(args.minutes), training.step, 0.0
    total, since = torch.zeros(2, device=device), 0
    while clock.progress < 1:
        cut = clock.progress < CUT_SHARE and not args.resume
        pictures = source.draw(batch * (SIZE // CUT) ** 2, CUT) if cut else source.draw(batch, SIZE)
        with half_precision(device):
            output, mean = run(pictures, source.noise(len(pictures), pictures.shape[-1] // 8))
        output = output.float()
        loss = picture_loss(output, pictures) + KL_WEIGHT * mean.float().square().sum() / (2 * len(pictures))
        warm = {"step": training.step - first_step, "warmup_steps": 100}
        training.take_step(loss, learning_rate(peak, **warm, progress=clock.progress, hold=HOLD))
        since, total = since + 1, total + torch.stack([loss.detach(), F.mse_loss(output.detach() / 2, pictures / 2)])
        if training.step % 50 == 0:
            mean_loss, mean_error = (total / since).tolist()
            psnr = -10 * math.log10(mean_error)
            log("step %d  %.1f min  loss %.4f  PSNR %.2f dB", training.step, clock.minutes, mean_loss, psnr)
            total, since = torch.zeros(2, device=device), 0
        if clock.minutes - saved > args.save_minutes:
            training.save(path, minutes=clock.minutes)
            saved = clock.minutes
    training.save(path, minutes=clock.minutes)
    log("done: %d steps, %.1f minutes in all", training.step, training.minutes + clock.minutes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser)
    parser.add_argument("--freeze-encoder", action="store_true", help="refine the decoder only, so cached latents hold")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
