"""The header of a safetensors or GGUF file, read in milliseconds and trusted in nothing.

Only the header is read, never the weights (but for single small tensors, on demand). Whatever is wrong with a file is
a `HeaderError` that says what was found and what to do; a header that passes has tensors that fill the file exactly.
This module loads no torch, and no pickle is ever opened.
"""

from __future__ import annotations

import json
import math
import struct
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .gguf import MAGIC, read_gguf_header
from .packings import Whereabouts, check_packings
from .tensors import PLAIN_BITS, Header, HeaderError, TensorInfo

__all__ = ["Header", "HeaderError", "TensorInfo", "parse_json_object", "read_bytes", "read_floats", "read_header"]

HEADER_LIMIT = 100_000_000  # bytes; the limit of the safetensors library
SMALL_TENSOR = 1_000_000  # values; what `read_floats` agrees to read
_NUMBER_CODES = {
    "F64": "d", "F32": "f", "F16": "e", "BF16": "f", "F8_E4M3": "", "F8_E5M2": "e", "I64": "q", "I32": "i"
}  # `struct`'s  # fmt: skip

_CONVERT = (
    "Pickles can run code and are never loaded. Where you trust the file, convert it with "
    '`python -c "import sys, torch; from safetensors.torch import save_file; '
    "d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); d = d.get('state_dict', d); "
    "save_file({k: v.clone() for k, v in d.items() if hasattr(v, 'clone')}, sys.argv[2])\" "
    "{name} {stem}.safetensors`, and name the new one."
)
_AGAIN = "Download it again: the page it came from may ask for a login or an accepted licence."


def read_header(path: Path | str) -> Header:
    """Reads the header of a weight file and checks all of it. Raises HeaderError, or OSError for no such file."""
    path = Path(path)
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(64)
        if head.startswith(MAGIC):
            return read_gguf_header(path)
        length = _header_length(path, head, size)
        file.seek(8)
        entries = parse_json_object(path, file.read(length))
        metadata = entries.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise _broken(path, "__metadata__ that is not an object of strings")
        tensors = {key: _tensor(path, key, entry) for key, entry in entries.items()}
        _check_layout(path, tensors, data_bytes=size - 8 - length)
        check_packings(path, tensors, metadata, Whereabouts(file, 8 + length))
    return Header(path=path, tensors=tensors, metadata=metadata, data_start=8 + length, file_size=size)


def read_floats(header: Header, key: str) -> array[float]:
    """Returns the values of one small tensor of numbers, row by row, straight from the file. Raises HeaderError."""
    info = header.tensors[key]
    if info.dtype not in _NUMBER_CODES or info.numel > SMALL_TENSOR:
        found = f"{key!r} with {info.numel} values of {info.dtype}"
        raise HeaderError(
            header.path, found, expected="a small tensor of numbers", cure="The file is unusual; check it."
        )
    data = read_bytes(header, key)
    if info.dtype == "BF16":  # the upper half of a float32
        data = b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2))
    elif info.dtype == "F8_E5M2":  # the upper half of a float16
        data = b"".join(bytes((0, byte)) for byte in data)
    elif info.dtype == "F8_E4M3":
        return array("d", map(_float8, data))
    return array("d", struct.unpack(f"<{info.numel}{_NUMBER_CODES[info.dtype]}", data))


def read_bytes(header: Header, key: str) -> bytes:
    """Returns the bytes of one tensor, such as a tokenizer that is kept among weights. Raises HeaderError for over 100 MB."""
    info = header.tensors[key]
    if info.end - info.begin > HEADER_LIMIT:
        found = f"{key!r} of {info.end - info.begin} bytes"
        raise HeaderError(header.path, found, expected=f"at most {HEADER_LIMIT}", cure="The file is unusual; check it.")
    with header.path.open("rb") as file:
        file.seek(header.data_start + info.begin)
        return file.read(info.end - info.begin)


def parse_json_object(path: Path, text: bytes) -> dict[str, Any]:
    """Returns the object that a JSON text holds; duplicate keys and bottomless nesting are a HeaderError."""
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError:
        raise _broken(path, "JSON that is nested too deeply") from None
    except ValueError as error:
        raise _broken(path, f"bad JSON ({error})") from None
    if not isinstance(value, dict):
        raise _broken(path, f"JSON whose top is a {type(value).__name__}, not an object")
    return value


def _float8(byte: int) -> float:
    """The value of a float8 e4m3fn: 1 bit of sign, 4 of exponent, 3 of fraction; no infinities. arXiv:2209.05433."""
    exponent, fraction = byte >> 3 & 15, byte & 7
    if exponent == 15 and fraction == 7:
        return math.nan
    value = math.ldexp(fraction, -9) if exponent == 0 else math.ldexp(8 + fraction, exponent - 10)
    return -value if byte >> 7 else value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return members


def _broken(path: Path, found: str) -> HeaderError:
    return HeaderError(path, found, expected="a sound safetensors header", cure="The file is damaged; get it again.")


def _header_length(path: Path, head: bytes, size: int) -> int:
    """Returns the header's bytes, or says what the file is instead."""
    length = int.from_bytes(head[:8], "little")
    if len(head) > 8 and head[8:9] == b"{" and length <= min(HEADER_LIMIT, size - 8):
        return length
    _refuse_other_formats(path, head, size)
    if size < 10:
        raise HeaderError(path, f"{size} bytes, too few for any weights", cure=_AGAIN)
    if length > HEADER_LIMIT:
        raise HeaderError(path, f"a header length of {length} bytes (at most {HEADER_LIMIT} are read)", cure=_AGAIN)
    if length > size - 8:
        found = f"a header of {length} bytes in a file of {size}: {length + 8 - size} bytes and all weights are missing"
        raise HeaderError(path, found, cure=_AGAIN)
    raise HeaderError(path, f"a header that begins with {head[8:12]!r}, not with '{{'", cure=_AGAIN)


def _refuse_other_formats(path: Path, head: bytes, size: int) -> None:
    """Raises HeaderError if the first bytes are those of another kind of file."""
    stem = f"{path.stem}.converted" if path.suffix == ".safetensors" else path.stem  # never over the file itself
    convert = _CONVERT.replace("{name}", path.name).replace("{stem}", stem)
    pointer = "Fetch the file itself with `git lfs pull`."
    page = head.lstrip().lower()
    kinds = (
        (size == 0, "an empty file", _AGAIN),
        (head.startswith(b"PK\x03\x04"), "a zip archive: a pickled PyTorch checkpoint", convert),
        (head[:1] == b"\x80" and head[1:2] in {b"\2", b"\3", b"\4", b"\5"}, "a pickled PyTorch checkpoint", convert),
        (head.startswith(b"version https://git-lfs"), "a Git LFS pointer, not the file it stands for", pointer),
        (head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF")), "a picture", "Name the weights instead."),
        (page.startswith((b"<!doctype", b"<html", b"<?xml")), "a web page", _AGAIN),
    )
    for matches, found, cure in kinds:
        if matches:
            raise HeaderError(path, found, cure=cure)


def _tensor(path: Path, key: str, entry: object) -> TensorInfo:
    """Returns one entry of the header, once its shape, number format and offsets agree."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise _broken(path, f"{key!r} without dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in PLAIN_BITS:
        known = f"one of {', '.join(PLAIN_BITS)}"
        raise HeaderError(path, f"{key!r} in the format {dtype!r}", expected=known, cure="Convert it to a known one.")
    if not _are_counts(shape):
        raise _broken(path, f"{key!r} with the shape {shape!r}")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _broken(path, f"{key!r} with the offsets {offsets!r}")
    begin, end = offsets
    needed = math.prod(shape) * PLAIN_BITS[dtype] // 8
    if needed != end - begin:
        raise _broken(path, f"{key!r} of {dtype} {shape}, which is {needed} bytes, in {end - begin} bytes")
    return TensorInfo(dtype=dtype, shape=tuple(shape), begin=begin, end=end)


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_layout(path: Path, tensors: Mapping[str, TensorInfo], data_bytes: int) -> None:
    """Checks that the tensors follow each other without gap or overlap and end where the file ends."""
    end = 0
    for key, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin != end:
            flaw = "overlaps the tensor before it" if info.begin < end else "leaves a gap before it"
            raise _broken(path, f"{key!r} at byte {info.begin}, which {flaw} (that ends at {end})")
        end = info.end
    if end > data_bytes:
        found = f"{data_bytes} bytes of weights where the header names {end}: {end - data_bytes} bytes are missing"
        raise HeaderError(path, found, expected="the whole file", cure="The download was cut short; download it again.")
    if end < data_bytes:
        raise _broken(path, f"{data_bytes - end} bytes behind the last tensor that belong to none")
