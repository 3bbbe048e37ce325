"""Whether a list of conditions says something at every step and everywhere; what it leaves out is estimated as 0.

That is ComfyUI 0.8.0's behaviour, and it spoils a picture. So whoever asked for it is told.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .conditioning import PreparedCondition

_CURE = (
    "its estimate is 0 there, which spoils the picture: combine it with one that holds there, too (ConditioningCombine)"
)


def find_gap(conditions: Sequence[PreparedCondition], levels: Tensor, latent: Tensor) -> str | None:
    """Returns in words when or where no condition holds in a run from level to level, (n + 1,), that starts from a latent.

    latent: (B, C, h, w). None if something holds everywhere at every step.
    """
    total = len(levels) - 1
    holding = [tuple(each for each in conditions if _holds(each, level)) for level in levels[:-1].tolist()]
    if silent := [step for step, each in enumerate(holding, start=1) if not each]:
        steps = f"step {silent[0]}" if len(silent) == 1 else f"{len(silent)} steps, {silent[0]} the first of them,"
        return f"holds nowhere at {steps} of {total}; {_CURE}"
    for step, each in enumerate(holding, start=1):
        if step > 1 and each == holding[step - 2]:
            continue
        share = _share(each, latent)
        if share < 1:
            part = f"{int(100 * share)} % of the picture alone at step {step} of {total}"
            return f"holds in {part}, and nothing in the rest; {_CURE}"
    return None


def _holds(condition: PreparedCondition, level: float) -> bool:
    return condition.sigma_end <= level <= condition.sigma_start and not condition.is_weightless


def _share(conditions: Sequence[PreparedCondition], latent: Tensor) -> float:
    """How much of all latents, 0..1, some condition holds in."""
    held = torch.zeros_like(latent[:, :1], dtype=torch.bool)
    for condition in conditions:
        if not isinstance(condition.weight, Tensor):
            return 1.0
        part = held if condition.window is None else condition.window.crop(held)
        part |= condition.weight > 0
    return held.float().mean().item()
