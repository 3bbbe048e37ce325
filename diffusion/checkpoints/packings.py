"""Whether the numbers of a file can be widened: plain ones, and those with scales for whole weights or for their rows.

Other packings (4 bits in blocks, rotated rows) are told by the names of what they keep beside their weights, or by what the
file states of its layers, and refused by name before they are taken for something else. See `layouts.scales` for the names
of scales.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..layouts.scales import SCALES
from .tensors import HeaderError, TensorInfo

FOREIGN: Mapping[str, str] = {
    "weight_scale_2": "NVFP4, 4 bits a number in blocks of 16",
    "weight_scale_inv": "float8 in blocks with a scale each",
    "weight_block_scale": "float8 in blocks with a scale each",
    "bitsandbytes__nf4": "NF4, bitsandbytes' 4 bits a number",
    "bitsandbytes__fp4": "FP4, bitsandbytes' 4 bits a number",
    "absmax": "4 or 8 bits a number, by bitsandbytes",
    "SCB": "LLM.int8, bitsandbytes' 8 bits a number",
    "wscales": "SVDQuant, Nunchaku's 4 bits a number",
    "qzeros": "GPTQ or AWQ, a few bits a number in groups",
}
"""Packings that are not widened here, by the last word of a key that only their files have."""

_STATED = "_quantization_metadata"  # ComfyUI's, in the metadata: formats by layer
_MARK = ".comfy_quant"  # or a tensor beside each weight, with the same JSON in bytes
_KNOWN = frozenset({"float8_e4m3fn", "float8_e5m2", "int8_tensorwise"})
_MARK_LIMIT = 4096  # bytes
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_EXPONENTS = frozenset({"U8", "F8_E8M0"})  # the scales of MXFP8, powers of two
_ONE_SCALE = "one scale for a whole weight, or one for each of its rows"
_CURE = "Choose the scaled float8 (fp8_scaled), the GGUF or the bfloat16 file of this model."


class Whereabouts(NamedTuple):
    """An open file, and where in it its tensors begin."""

    file: BinaryIO
    data_start: int


def check_packings(
    path: Path, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str], where: Whereabouts
) -> None:
    """Raises HeaderError for weights that can't be widened, as far as names, shapes and statements of the file tell."""
    _check_names(path, tensors)
    _check_statements(path, tensors, metadata, where)


def _check_names(path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    for key, info in tensors.items():
        stem, _, leaf = key.rpartition(".")
        if leaf in FOREIGN:
            raise _refused(path, FOREIGN[leaf], key)
        if leaf not in SCALES:
            continue
        weight = tensors.get(f"{stem}.weight")
        if weight is not None and weight.dtype == "U8" and f"{stem}.weight_scale_2" in tensors:
            raise _refused(path, FOREIGN["weight_scale_2"], key)
        if weight is not None and info.dtype in _EXPONENTS and info.numel > 1:
            raise _refused(path, "MXFP8, float8 in blocks of 32", key)
        if weight is None or info.dtype not in _FLOATS or info.numel not in _sizes(weight):
            of = "no weight" if weight is None else f"{weight.dtype} {list(weight.shape)}"
            found = f"{key!r} of {info.dtype} {list(info.shape)} as a scale of {of}"
            raise HeaderError(path, found, expected=_ONE_SCALE, cure=_CURE)


def _check_statements(
    path: Path, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str], where: Whereabouts
) -> None:
    """Marks beside weights are read where the weight's own format does not tell all: of weights in 8-bit integers."""
    for layer, stated in (*_stated_in(metadata), *_marks(tensors, where)):
        name = stated.get("format")
        if isinstance(name, str) and name not in _KNOWN:
            raise _refused(path, name, layer)
        if stated.get("convrot"):
            raise _refused(path, f"{name} with rotated rows (ConvRot)", layer)


def _stated_in(metadata: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    layers = _json_object(metadata.get(_STATED, "")).get("layers")
    for layer, stated in layers.items() if isinstance(layers, dict) else ():
        if isinstance(stated, dict):
            yield layer, stated


def _marks(tensors: Mapping[str, TensorInfo], where: Whereabouts) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, info in tensors.items():
        stem = key.removesuffix(_MARK)
        weight = tensors.get(f"{stem}.weight") if stem != key else None
        if weight is None or weight.dtype != "I8" or info.end - info.begin > _MARK_LIMIT:
            continue
        where.file.seek(where.data_start + info.begin)
        yield stem, _json_object(where.file.read(info.end - info.begin).rstrip(b"\0"))


def _json_object(text: str | bytes) -> Mapping[str, Any]:
    """What can't be read states nothing: the scales themselves are checked in any case."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _refused(path: Path, packing: str, key: str) -> HeaderError:
    found, expected = f"weights in {packing} ({key!r})", "numbers of a plain format, float8 with scales, or GGUF"
    return HeaderError(path, found, expected=expected, cure=_CURE)


def _sizes(weight: TensorInfo) -> tuple[int, int]:
    return (1, weight.shape[0] if weight.shape else 1)
