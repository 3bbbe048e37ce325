"""Which noise levels a run can go through, and how many. Loads no torch, so that a node can tell before a run."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

LARGEST_LOG = 80  # whose power of e float32 still holds
LONGEST_SCHEDULE = 1_000_000  # steps; the levels of longer ones take more memory than the pictures
_NUMBER = r"[-+]?(?:\d*\.\d+|\d+\.?)(?:[eE][-+]?\d+)?"


def whole_steps(steps: int, denoise: float) -> int:
    """Returns of how many steps a schedule is whose last `steps` are the share `denoise` of it, above 0.

    Raises ValueError for one that is longer than `LONGEST_SCHEDULE`.
    """
    whole = steps / denoise
    if whole > LONGEST_SCHEDULE:
        least = steps / LONGEST_SCHEDULE
        raise ValueError(
            f"{denoise:g} makes {steps} steps the end of a schedule of {whole:.3g}; expected at least {least:.3g} for so many "
            "steps, or 0 to change nothing"
        )
    return int(whole)


def written_levels(text: str) -> list[float]:
    """Returns the numbers of a text, whatever separates them, as noise levels. Raises ValueError for none, or see below."""
    numbers = [float(number) for number in re.findall(_NUMBER, text)]
    if not numbers:
        raise ValueError(f"no number in {text!r}; give noise levels like '14.6, 3.9, 0.7, 0'")
    check_levels(numbers)
    return numbers


def check_levels(levels: Sequence[float], *, highest: float = math.inf) -> None:
    """Raises ValueError for a noise level at which nothing can be sampled.

    Numbers above 0 will do, in any order, up to `highest` and a little more; the last one may be 0.
    """
    for place, level in enumerate(levels, start=1):
        where = f"noise level {place} of {len(levels)} is {level:g}"
        if not math.isfinite(level) or level < 0:
            raise ValueError(f"{where}; expected finite numbers, none below 0")
        if level == 0 and place < len(levels):
            raise ValueError(f"{where}, where no noise is left to go on from; only the last may be 0")
        if level > highest * 1.001:
            raise ValueError(
                f"{where}, but a rectified-flow model knows none above {highest:g}, all noise; take them from a scheduler "
                "that knows the model, such as BasicScheduler"
            )
