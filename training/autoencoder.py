"""Trains the picture autoencoder: 128x128 RGB to a 4x16x16 latent and back.

The loss is on pixels and on their differences to the next pixel, which keeps outlines sharp without a second network;
a small KL term keeps the latent bounded. The latent scale is put right at export, not here.

    python -m training.autoencoder --work WORK --minutes 55
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from .augmentation import BACKGROUNDS, COLOURS, PLAIN, compose, dominant_hues, recolour
from .dataset import load_pictures
from .loop import Clock, WeightAverage, add_run_arguments, learning_rate, load_state, log, save_state
from .presets import AUTOENCODERS, preset_named

KL_WEIGHT = 1e-6  # a sum over the latent, as LDM's kl-f8 configuration
HOLD = 0.35  # share of the run at the peak learning rate


def state_path(work: Path, preset: str) -> Path:
    return work / f"autoencoder-{preset}.pt"


def load_autoencoder(work: Path, preset: str) -> AutoencoderKL:
    """Returns the averaged network of a saved state, in float32 on the CPU, ready to use."""
    network = preset_named(preset, AUTOENCODERS).build()
    values = load_state(state_path(work, preset))["average"]
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.copy_(values[name])
    return network.eval().requires_grad_(False)


class PictureSource:
    """Draws random training pictures from the whole set, held on one device."""

    def __init__(self, work: Path, device: torch.device, seed: int) -> None:
        pictures = load_pictures(work)
        self.rgba = torch.from_numpy(pictures.rgba).permute(0, 3, 1, 2).contiguous().to(device)
        self.hues = torch.cat([dominant_hues(part.float() / 255) for part in self.rgba.split(64)])
        self.generator = torch.Generator(device).manual_seed(seed)
        self.device = device

    def draw(self, count: int) -> torch.Tensor:
        """Returns (count, 3, 128, 128) in [-1, 1]: shifted up to 8 pixels, half of them recoloured, any background."""
        which = self._integers(len(self.rgba), count)
        rgba = self.rgba[which].float() / 255
        colours = self._integers(len(COLOURS), count)
        colours = torch.where(self._chances(count) < 0.5, colours, torch.full_like(colours, PLAIN))
        backgrounds = torch.where(self._chances(count) < 0.5, self._integers(len(BACKGROUNDS), count), 0)
        picture = compose(recolour(rgba, self.hues[which], colours), backgrounds, self._chances(count) < 0.5)
        shift = self._integers(17, 2).tolist()
        return picture.roll((shift[0] - 8, shift[1] - 8), (2, 3)) * 2 - 1

    def _integers(self, below: int, count: int) -> torch.Tensor:
        return torch.randint(below, (count,), generator=self.generator, device=self.device)

    def _chances(self, count: int) -> torch.Tensor:
        return torch.rand(count, generator=self.generator, device=self.device)


def picture_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns the mean of absolute and squared pixel errors and absolute errors of neighbour differences."""
    error = output - target
    across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    return error.abs().mean() + 2 * error.square().mean() + 0.5 * (across.abs().mean() + down.abs().mean())


def train(args: argparse.Namespace) -> None:
    preset = preset_named(args.preset, AUTOENCODERS)
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    network = preset.build().to(device)
    average = WeightAverage(network, decay=0.999)
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    source = PictureSource(args.work, device, args.seed)
    path, step, spent = state_path(args.work, args.preset), 0, 0.0
    if args.resume:
        state = load_state(path)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        average.values = {name: value.to(device) for name, value in state["average"].items()}
        step, spent = state["step"], state["minutes"]
        source.generator.manual_seed(args.seed + step)
    log("autoencoder %s: %.2f M parameters", args.preset, sum(p.numel() for p in network.parameters()) / 1e6)

    def save() -> None:
        values = {"network": network.state_dict(), "average": average.values, "optimizer": optimizer.state_dict()}
        save_state(path, {**values, "step": step, "minutes": spent + clock.minutes})

    run = torch.compile(network) if args.compile else network
    batch, peak = args.batch or preset.batch, args.lr or preset.lr
    clock, first_step, saved = Clock(args.minutes), step, 0.0
    total, total_square, since = 0.0, 0.0, 0
    while clock.progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(
                peak, step=step - first_step, warmup_steps=100, progress=clock.progress, hold=HOLD
            )
        pictures = source.draw(batch)
        with _autocast(device):
            posterior = run.encode(pictures).latent_dist
            output = run.decode(posterior.mean + 0.02 * torch.randn_like(posterior.mean)).sample
        output = output.float()
        kl = posterior.mean.float().square().sum() / (2 * batch)
        loss = picture_loss(output, pictures) + KL_WEIGHT * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update(network, step)
        step, since = step + 1, since + 1
        total, total_square = total + loss.detach(), total_square + F.mse_loss(output.detach() / 2, pictures / 2)
        if step % 100 == 0:
            psnr = -10 * torch.log10(torch.as_tensor(total_square / since)).item()
            log("step %d  %.1f min  loss %.4f  training PSNR %.2f dB", step, clock.minutes, float(total / since), psnr)
            total, total_square, since = 0.0, 0.0, 0
        if clock.minutes - saved > args.save_minutes:
            save()
            saved = clock.minutes
    save()
    log("done: %d steps, %.1f minutes in all", step, spent + clock.minutes)


def _autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    return torch.autocast(device.type, dtype=torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
