"""What both training scripts share: a learning rate bounded by wall clock, an average of weights, and saved states.

A state holds everything needed to go on: network, average, optimizer, generator, steps, and minutes already spent.
States are written beside the old one and renamed, so a run that is killed leaves a whole file.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

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


class WeightAverage:
    """An exponential moving average of a module's floating-point parameters, with a warm-up that forgets the start."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().float().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.values.values()), [p.detach() for p in module.parameters()], 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        for name, p in module.named_parameters():
            p.copy_(self.values[name])


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes a state so that `path` is always either the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load_state(path: Path) -> dict[str, Any]:
    """Returns a state on the CPU; only tensors and plain values are read."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no saved state; train without --resume first, or check --work and --preset")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


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
