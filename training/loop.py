"""What both training scripts share: a budget in wall-clock minutes, an average of weights, and states to resume from.

A state is one safetensors file with the networks, their average and the optimizer. It is written beside the old one
and renamed, so a run that is killed leaves a whole file.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

_logger = logging.getLogger(__name__)


@dataclass
class Clock:
    """Measures one run against its budget in minutes; `progress` goes from 0 to 1 and also drives the schedule."""

    budget_minutes: float
    started: float = field(default_factory=time.monotonic)

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self.started) / 60

    @property
    def progress(self) -> float:
        return min(1.0, self.minutes / self.budget_minutes)


def learning_rate(peak: float, *, step: int, warmup_steps: int, progress: float, hold: float) -> float:
    """Returns a linear warm-up in steps, then `peak` until `hold` of the run's time, then a half cosine to zero."""
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    fall = max(0.0, progress - hold) / max(1e-6, 1 - hold)
    return peak * warm * 0.5 * (1 + math.cos(math.pi * fall))


class Training:
    """Owns what changes in a run: the network, its moving average, the optimizers, and the steps and minutes spent.

    With `matrices`, the weights of hidden layers are moved by Muon (Jordan et al. 2024), each as one matrix with a row for
    each output, and the rest by AdamW at the same learning rate; without, AdamW moves everything.
    """

    def __init__(self, network: nn.Module, *, decay: float, matrices: bool = False) -> None:
        self.network = network
        self.named = dict(network.named_parameters())
        self.parameters = list(self.named.values())
        self.average = [p.detach().float().clone() for p in self.parameters]
        self.decay = decay
        hidden = _hidden_weights(network) if matrices else set()
        self.matrices = {name: nn.Parameter(self.named[name].detach().flatten(1)) for name in hidden}  # share memory
        self.others = {name: p for name, p in self.named.items() if name not in hidden}
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(self.others.values(), betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        ]
        if hidden:
            self.optimizers.append(
                torch.optim.Muon(self.matrices.values(), weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
            )
        self.step = 0
        self.minutes = 0.0

    def take_step(self, loss: torch.Tensor, lr: float) -> None:
        """Moves the weights against the gradient, clipped to norm 1, and the average towards the weights."""
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for name, matrix in self.matrices.items():
            gradient = self.named[name].grad
            matrix.grad = None if gradient is None else gradient.flatten(1)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
        self.network.zero_grad(set_to_none=True)
        decay = min(self.decay, (1 + self.step) / (10 + self.step))  # forgets the random start quickly
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        self.step += 1

    def _moments(self, name: str) -> dict[str, torch.Tensor]:
        """Returns what the optimizer keeps for a parameter, to read or to change."""
        optimizer, p = (
            (self.optimizers[1], self.matrices[name])
            if name in self.matrices
            else (self.optimizers[0], self.named[name])
        )
        state: dict[str, torch.Tensor] = optimizer.state[p]
        return state

    def save(self, path: Path, *, minutes: float, extra: dict[str, torch.Tensor] | None = None) -> None:
        """Writes the state so that `path` is always either the old or the new one; `minutes` are this run's."""
        tensors = {"progress": torch.tensor([self.step, self.minutes + minutes], dtype=torch.float64), **(extra or {})}
        for (name, p), average in zip(self.named.items(), self.average, strict=True):
            tensors |= {f"network.{name}": p.detach(), f"average.{name}": average}
            tensors |= {f"optimizer.{name}.{key}": value for key, value in self._moments(name).items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, partial)
        partial.replace(path)

    @torch.no_grad()
    def adopt_average(self) -> None:
        """Goes on from the averaged weights."""
        torch._foreach_copy_([*self.parameters], self.average)

    def forget(self, parameters: list[nn.Parameter]) -> None:
        """Takes over parameters that were set from elsewhere: their average and optimizer state start again."""
        changed = {id(p) for p in parameters}
        for (name, p), average in zip(self.named.items(), self.average, strict=True):
            if id(p) in changed:
                average.copy_(p.detach())
                self._moments(name).clear()

    @torch.no_grad()
    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes over a saved state."""
        for (name, p), average in zip(self.named.items(), self.average, strict=True):
            p.copy_(tensors[f"network.{name}"])
            average.copy_(tensors[f"average.{name}"])
            head = f"optimizer.{name}."
            values = {key.removeprefix(head): tensors[key] for key in tensors if key.startswith(head)}
            self._moments(name).update(
                {
                    key: torch.empty_like(p).copy_(value) if value.shape == p.shape else value.to(p.device)
                    for key, value in values.items()  # the fused optimizer needs the strides of its parameter
                }
            )
        self.step, self.minutes = int(tensors["progress"][0]), float(tensors["progress"][1])


def _hidden_weights(network: nn.Module) -> set[str]:
    """Returns the names of weights between hidden layers: no embedding, and not the first or last convolution."""
    names = set()
    for name, module in network.named_modules():
        ends = name.endswith(("conv_in", "conv_out"))
        if isinstance(module, (nn.Linear, nn.Conv2d)) and not ends:
            names.add(f"{name}.weight")
    return names


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors of a saved state, on the CPU."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no saved state; train without --resume first, or check --work and --preset")
    tensors: dict[str, torch.Tensor] = load_file(path)
    return tensors


@torch.no_grad()
def load_average(network: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Gives a network the averaged weights of a saved state."""
    for name, p in network.named_parameters():
        p.copy_(tensors[f"average.{name}"])


def half_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Returns the bfloat16 autocast that both trainings run their forward passes in."""
    return torch.autocast(device.type, dtype=torch.bfloat16)


def fast_attention(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Returns a context in which attention of a few dozen tokens trains fastest.

    PyTorch 2.13's fused attention took a third of a training step on a CPU, most of it backward; plain matrix
    products made the whole step 1.4 times faster.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()


def memory_format(device: torch.device) -> torch.memory_format:
    """Returns the faster layout of convolutions in bfloat16: channels last on a GPU, not on a CPU."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that every training script takes."""
    parser.add_argument("--work", type=Path, required=True, help="folder of the picture set, caches and states")
    parser.add_argument("--preset", default="small", help="configuration from training/presets.py")
    parser.add_argument("--minutes", type=float, required=True, help="wall-clock budget; the learning rate ends at 0")
    parser.add_argument("--batch", type=int, default=None, help="pictures a step; default: the preset's")
    parser.add_argument("--lr", type=float, default=None, help="peak learning rate; default: the preset's")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--resume", action="store_true", help="go on from the saved state of this preset")
    parser.add_argument("--compile", action="store_true", help="run the networks through torch.compile")
    parser.add_argument("--save-minutes", type=float, default=4.0, help="minutes between saved states")
    parser.add_argument("--seed", type=int, default=0)


def log(message: str, *values: object) -> None:
    _logger.info(time.strftime("%H:%M:%S ") + message, *values)
