"""The header of a GGUF file (versions 2 and 3, little-endian), read in milliseconds and trusted in nothing.

The keys of a text encoder are those of transformers, not llama.cpp's, so that what comes after knows one naming. The gguf
package's own reader is not used for this: it makes objects of every word of a vocabulary, which takes seconds, and it
believes what a file says of its sizes. Format: ggml's docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .tensors import BLOCKS, PLAIN_BITS, Header, HeaderError, TensorInfo

MAGIC = b"GGUF"
HEADER_LIMIT = 100_000_000  # bytes, as for safetensors
MOST_SIDES = 4  # of a tensor in ggml

_PLAIN = {0: "F32", 1: "F16", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16"}
_FORMATS: Mapping[int, str] = _PLAIN | {blocks.code: name for name, blocks in BLOCKS.items()}
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

_T5_MODULES = {
    "attn_norm": "layer.0.layer_norm",
    "attn_q": "layer.0.SelfAttention.q",
    "attn_k": "layer.0.SelfAttention.k",
    "attn_v": "layer.0.SelfAttention.v",
    "attn_o": "layer.0.SelfAttention.o",
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
    "ffn_norm": "layer.1.layer_norm",
    "ffn_gate": "layer.1.DenseReluDense.wi_0",
    "ffn_up": "layer.1.DenseReluDense.wi_1",
    "ffn_down": "layer.1.DenseReluDense.wo",
}
_T5_TOP = {"token_embd.weight": "shared.weight", "enc.output_norm.weight": "encoder.final_layer_norm.weight"}
_T5_BLOCK = re.compile(r"enc\.blk\.(\d+)\.(\w+)\.weight")

_DECODER_MODULES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_DECODER_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_DECODER_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.weight")

Value = str | int | float | bool
_KEEP = "comfy.gguf.orig_shape."  # ComfyUI-GGUF's note of the shape of a kernel that it packed as rows of 256


def read_gguf_header(path: Path) -> Header:
    """Reads the header of a GGUF file and checks all of it. Raises HeaderError."""
    with _opened(path) as reader:
        tensor_count, values, arrays = _read_front(reader)
        shapes = {key.removeprefix(_KEEP): reader.values(each) for key, each in arrays.items() if key.startswith(_KEEP)}
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise _broken(path, f"an alignment of {alignment!r}, which is no power of two")
        infos = {}
        for _ in range(tensor_count):
            key, info = _read_tensor(reader, shapes)
            if key in infos:
                raise _broken(path, f"the tensor {key!r} twice")
            infos[key] = info
        data_start = -(-reader.at // alignment) * alignment
        size = reader.size
    _check_layout(path, infos, alignment, size - data_start)
    rename = _NAMES.get(str(values.get("general.architecture")), str)
    return Header(
        path=path,
        tensors={name: info for key, info in infos.items() if (name := rename(key))},
        metadata={key: str(value) for key, value in values.items()},
        data_start=data_start,
        file_size=size,
    )


def read_gguf_arrays(path: Path, keys: Collection[str]) -> dict[str, list[Value]]:
    """Returns lists of the header by key, such as a tokenizer's words: those of these that the file has."""
    with _opened(path) as reader:
        _, _, arrays = _read_front(reader)
        return {key: reader.values(arrays[key]) for key in keys if key in arrays}


class _Array(NamedTuple):
    """Where a list of values lies in the file."""

    kind: int
    length: int
    at: int


class _Reader:
    """Reads from a place that moves on; whatever would lie behind the file's end is a HeaderError."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.size, self.at = path, len(data), len(MAGIC)
        self._data = data

    def number(self, code: str) -> int:
        value: int = struct.unpack_from(f"<{code}", self._data, self._step(struct.calcsize(code)))[0]
        return value

    def numbers(self, code: str, count: int) -> list[int]:
        start = self._step(count * struct.calcsize(code))
        return list(struct.unpack_from(f"<{count}{code}", self._data, start))

    def text(self) -> str:
        length = self.number("Q")
        start = self._step(length)
        try:
            return self._data[start : self.at].decode()
        except UnicodeDecodeError:
            raise _broken(self.path, f"bytes that are no text at {start}") from None

    def value(self, kind: int) -> Value | _Array:
        """Returns a value, or the place of a list, whose values are passed over."""
        if kind == _STRING:
            return self.text()
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind != _ARRAY:
            raise _broken(self.path, f"a value of the unknown kind {kind} at byte {self.at}")
        array = _Array(self.number("I"), self.number("Q"), self.at)
        if array.kind in _SCALARS:
            self._step(array.length * struct.calcsize(_SCALARS[array.kind]))
        elif array.kind == _STRING:
            self._step(8 * array.length)  # each has a length: a count that lies is found before it is counted to
            self.at = array.at
            for _ in range(array.length):
                self._step(self.number("Q"))
        else:
            raise _broken(self.path, f"a list of values of the kind {array.kind} at byte {self.at}")
        return array

    def values(self, array: _Array) -> list[Value]:
        """Returns the values of a list that was passed over, and stays in its place."""
        here, self.at = self.at, array.at
        if array.kind == _STRING:
            found: list[Value] = [self.text() for _ in range(array.length)]
        else:
            found = [*self.numbers(_SCALARS[array.kind], array.length)]
        self.at = here
        return found

    def _step(self, size: int) -> int:
        start, self.at = self.at, self.at + size
        if self.at > self.size:
            found = f"a header that goes on {self.at - self.size} bytes behind the file's end at {self.size}"
            raise HeaderError(self.path, found, expected="the whole file", cure="Download it again.")
        if self.at > HEADER_LIMIT:
            raise _broken(self.path, f"a header of over {HEADER_LIMIT} bytes")
        return start


@contextmanager
def _opened(path: Path) -> Iterator[_Reader]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = _Reader(path, data)
        version = reader.number("I")
        if version not in {2, 3}:
            cure = "Big-endian files and those of 2023's first version can't be read; get it again."
            raise HeaderError(path, f"GGUF version {version}", expected="version 2 or 3, little-endian", cure=cure)
        yield reader


def _read_front(reader: _Reader) -> tuple[int, dict[str, Value], dict[str, _Array]]:
    """Returns how many tensors there are, and the values and lists that come before them."""
    tensor_count, value_count = reader.number("Q"), reader.number("Q")
    values: dict[str, Value] = {}
    arrays: dict[str, _Array] = {}
    for _ in range(value_count):
        key, kind = reader.text(), reader.number("I")
        if key in values or key in arrays:
            raise _broken(reader.path, f"the key {key!r} twice")
        value = reader.value(kind)
        if isinstance(value, _Array):
            arrays[key] = value
        else:
            values[key] = value
    return tensor_count, values, arrays


def _read_tensor(reader: _Reader, shapes: Mapping[str, list[Value]]) -> tuple[str, TensorInfo]:
    key, sides = reader.text(), reader.number("I")
    if sides > MOST_SIDES:
        raise _broken(reader.path, f"{key!r} with {sides} sides, where {MOST_SIDES} are the most")
    shape = tuple(reversed(reader.numbers("Q", sides)))  # ggml names the innermost first
    code, begin = reader.number("I"), reader.number("Q")
    if code not in _FORMATS:
        cure = "Choose another quantisation of this model, such as Q8_0 or Q4_K_M."
        known = f"one of {', '.join(_FORMATS.values())}"
        raise HeaderError(reader.path, f"{key!r} in GGUF's format {code}", expected=known, cure=cure)
    name = _FORMATS[code]
    count = math.prod(shape)
    if blocks := BLOCKS.get(name):
        if not shape or shape[-1] % blocks.values:
            raise _broken(reader.path, f"{key!r} of {name} in rows of {shape[-1:]}, no multiple of {blocks.values}")
        size = count // blocks.values * blocks.size
    else:
        size = count * PLAIN_BITS[name] // 8
    if key in shapes:
        stated = tuple(side for side in shapes[key] if isinstance(side, int) and side >= 0)
        if len(stated) != len(shapes[key]) or math.prod(stated) != count:
            raise _broken(reader.path, f"{key!r} of {list(shape)}, said to be {shapes[key]} unpacked")
        shape = stated
    return key, TensorInfo(dtype=name, shape=shape, begin=begin, end=begin + size)


def _check_layout(path: Path, tensors: Mapping[str, TensorInfo], alignment: int, data_bytes: int) -> None:
    """Checks that tensors begin where they may, don't overlap and end within the file."""
    end = 0
    for key, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin % alignment or info.begin < end:
            flaw = "overlaps the tensor before it" if info.begin < end else f"is no multiple of {alignment}"
            raise _broken(path, f"{key!r} at byte {info.begin}, which {flaw}")
        end = info.end
    if end > data_bytes:
        found = (
            f"{max(0, data_bytes)} bytes of weights where the header names {end}: {end - data_bytes} bytes are missing"
        )
        raise HeaderError(path, found, expected="the whole file", cure="The download was cut short; download it again.")


def _t5_name(key: str) -> str | None:
    """Returns transformers' name of a T5 encoder's tensor; none for the decoder's, which nobody needs."""
    if match := _T5_BLOCK.fullmatch(key):
        number, module = match.groups()
        return f"encoder.block.{number}.{_T5_MODULES.get(module, module)}.weight"
    return None if key.startswith("dec.") or key == "output.weight" else _T5_TOP.get(key, key)


def _decoder_name(key: str) -> str:
    """Returns transformers' name of a language model's tensor."""
    if match := _DECODER_BLOCK.fullmatch(key):
        number, module = match.groups()
        return f"model.layers.{number}.{_DECODER_MODULES.get(module, module)}.weight"
    return _DECODER_TOP.get(key, key)


_NAMES: Mapping[str, Callable[[str], str | None]] = {"t5": _t5_name, "t5encoder": _t5_name, "qwen3": _decoder_name}
"""By architecture. Llama's and Mistral's are not here: llama.cpp turns the rows of their queries and keys around."""


def _broken(path: Path, found: str) -> HeaderError:
    return HeaderError(path, found, expected="a sound GGUF header", cure="The file is damaged; get it again.")
