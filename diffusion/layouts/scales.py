"""The scales that some files keep beside their weights: the weight is what is stored times its scale.

`x.scale_weight` is ComfyUI's name for the scale of `x.weight`, `x.weight_scale` everybody else's. What else such files
carry (scales of inputs, a mark that they are scaled) is for arithmetic in 8 bits, which is not done here.
"""

from __future__ import annotations

from collections.abc import Container

COMPANIONS = frozenset({"scale_weight", "weight_scale", "scale_input", "input_scale", "scaled_fp8", "comfy_quant"})
"""The names of tensors that say something of a weight and are none."""

SCALES = ("scale_weight", "weight_scale")


def is_companion(key: str) -> bool:
    """Returns whether a tensor only says something of a weight."""
    return key.rpartition(".")[2] in COMPANIONS


def scale_of(key: str, present: Container[str]) -> str | None:
    """Returns the key of a weight's scale, if it has one."""
    stem, _, leaf = key.rpartition(".")
    if leaf != "weight":
        return None
    return next((name for each in SCALES if (name := f"{stem}.{each}") in present), None)
