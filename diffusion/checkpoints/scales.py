"""The scales that some files keep beside their weights: the weight is what is stored times its scale.

`x.scale_weight` is ComfyUI's name for the scale of `x.weight`, `x.weight_scale` everybody else's. What else such files
carry (scales of inputs, a mark that they are scaled) is for arithmetic in 8 bits, which is not done here.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path

from .tensors import HeaderError, TensorInfo

COMPANIONS = frozenset({"scale_weight", "weight_scale", "scale_input", "input_scale", "scaled_fp8", "comfy_quant"})
"""The names of tensors that say something of a weight and are none."""

_SCALES = ("scale_weight", "weight_scale")
_OTHER_SCALES = frozenset({"weight_scale_inv", "weight_scale_2", "weight_block_scale"})  # of blocks of a weight
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


def is_companion(key: str) -> bool:
    """Returns whether a tensor only says something of a weight."""
    return key.rpartition(".")[2] in COMPANIONS


def scale_of(key: str, present: Container[str]) -> str | None:
    """Returns the key of a weight's scale, if it has one."""
    stem, _, leaf = key.rpartition(".")
    if leaf != "weight":
        return None
    return next((name for each in _SCALES if (name := f"{stem}.{each}") in present), None)


def check_scales(path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Raises HeaderError for scales that can't be applied: of a block of a weight, or of no weight."""
    for key, info in tensors.items():
        stem, _, leaf = key.rpartition(".")
        if leaf not in _SCALES and leaf not in _OTHER_SCALES:
            continue
        weight = tensors.get(f"{stem}.weight")
        if leaf in _OTHER_SCALES or weight is None or info.dtype not in _FLOATS or info.numel not in _sizes(weight):
            of = "no weight" if weight is None else f"{weight.dtype} {list(weight.shape)}"
            raise HeaderError(
                path,
                f"{key!r} of {info.dtype} {list(info.shape)} as a scale of {of}",
                expected="one scale for a whole weight, or one for each of its rows",
                cure="Choose the float8 file with scaled tensors, the GGUF or the bfloat16 file of this model.",
            )


def _sizes(weight: TensorInfo) -> tuple[int, int]:
    return (1, weight.shape[0] if weight.shape else 1)
