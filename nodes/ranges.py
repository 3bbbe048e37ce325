"""What inputs must be by themselves, or beside others of their own node: what begins before it ends, and levels that fall.

Loads no torch.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from latentgraph.diffusion.levels.limits import whole_steps
from latentgraph.graph import Known


def check_part(known: Known, never: str) -> None:
    """Reports a part of a run, by inputs 'start' and 'end', that ends before it begins. never: what comes of it."""
    start, end = known.value("start"), known.value("end")
    if start is not None and end is not None and start > end:
        known.problem("end", f"is {end}, before input 'start' at {start}; {never}")


def check_levels_fall(known: Known) -> None:
    """Reports a lowest noise level, input 'sigma_min', above the highest, 'sigma_max'."""
    low, high = known.value("sigma_min"), known.value("sigma_max")
    if low is not None and high is not None and low > high:
        known.problem("sigma_min", f"is {low}, above sigma_max, {high}; noise levels decrease")


def check_denoise(known: Known) -> None:
    """Reports a denoise that is too small for the number of steps."""
    steps, denoise = known.value("steps"), known.value("denoise")
    try:
        whole_steps(steps or 1, denoise or 1.0)
    except ValueError as wrong:
        known.problem("denoise", f"of {wrong}")


def check_prefix(known: Known) -> None:
    """Reports a beginning of file names, input 'prefix', that is not below the output folder."""
    prefix = PurePosixPath((known.value("prefix") or "").replace("\\", "/"))
    if prefix.is_absolute() or ".." in prefix.parts:
        known.problem("prefix", f"is {str(prefix)!r}, which leads out of the output folder; give a name below it")
