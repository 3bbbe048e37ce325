"""Whether the scales that a file keeps beside its weights can be applied; see `layouts.scales` for their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..layouts.scales import SCALES
from .tensors import HeaderError, TensorInfo

_OTHER_SCALES = frozenset({"weight_scale_inv", "weight_scale_2", "weight_block_scale"})  # of blocks of a weight
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


def check_scales(path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Raises HeaderError for scales that can't be applied: of a block of a weight, or of no weight."""
    for key, info in tensors.items():
        stem, _, leaf = key.rpartition(".")
        if leaf not in SCALES and leaf not in _OTHER_SCALES:
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
