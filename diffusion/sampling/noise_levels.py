"""Noise that is mixed into a picture which a network is told of: its levels are not those of the run.

Ho et al. 2020, arXiv:2006.11239, eq. 4: at each level the signal is sqrt(1 - beta) times what it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

NoiseTable = tuple[tuple[float, float], ...]
"""For each level, how much of what is noised is left, and how much noise of unit spread comes to it."""


def noise_table(betas: Iterable[float]) -> NoiseTable:
    """Returns the table of levels that each add a share beta of noise."""
    left, table = 1.0, []
    for beta in betas:
        left *= 1.0 - beta
        table.append((math.sqrt(left), math.sqrt(1.0 - left)))
    return tuple(table)
