from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from latentgraph.diffusion.checkpoints.headers import HeaderError, read_floats, read_header

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def packed(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(**changes: Any) -> bytes:
    return packed({"w": F32 | changes}, b"\0" * 8)


HOSTILE = {
    "an empty file": (b"", "an empty file"),
    "a few bytes": (b"\1\2\3", "3 bytes, too few"),
    "a length of 8 GB": (struct.pack("<Q", 8 << 30) + b"{}", "a header length of 8589934592 bytes"),
    "a length of 100 GB": (struct.pack("<Q", 100 << 30) + b"{}", "a header length of"),
    "a length beyond 64 bits of sense": (b"\xff" * 8 + b"{}", "a header length of"),
    "a length beyond the file": (struct.pack("<Q", 500) + b'{"w": ', "a header of 500 bytes in a file of 14"),
    "no brace": (packed(b"[1, 2, 3]"), "begins with"),
    "no JSON": (packed(b"{not json at all}"), "bad JSON"),
    "JSON that ends early": (packed(b'{"w": {"dtype"'), "bad JSON"),
    "bytes that are no text": (packed(b'{"\xff\xfe": 1}'), "bad JSON"),
    "bottomless nesting": (packed(b'{"a": ' * 200_000), "nested too deeply"),
    "a duplicate key": (packed(b'{"w": 1, "w": 2}'), "the key 'w' twice"),
    "an entry that is no object": (packed({"w": 3}), "without dtype"),
    "an entry without offsets": (
        packed({"w": {"dtype": "F32", "shape": [2]}}),
        "without dtype, shape and data_offsets",
    ),
    "an unknown dtype": (entry(dtype="F31"), "'F31'"),
    "a dtype that is no name": (entry(dtype=["F32"]), "in the format"),
    "a negative side": (entry(shape=[-2]), "the shape [-2]"),
    "a side that is no number": (entry(shape=["2"]), "the shape ['2']"),
    "a boolean side": (entry(shape=[True, 2]), "the shape [True, 2]"),
    "a fractional side": (entry(shape=[2.0]), "the shape [2.0]"),
    "a shape that needs more bytes": (entry(shape=[1 << 40, 1 << 40]), "in 8 bytes"),
    "three offsets": (entry(data_offsets=[0, 4, 8]), "the offsets [0, 4, 8]"),
    "offsets backwards": (entry(data_offsets=[8, 0]), "the offsets [8, 0]"),
    "offsets below zero": (entry(data_offsets=[-8, 0]), "the offsets [-8, 0]"),
    "overlapping tensors": (packed({"a": F32, "b": F32 | {"data_offsets": [4, 12]}}, b"\0" * 12), "overlaps"),
    "a gap": (packed({"a": F32, "b": F32 | {"data_offsets": [16, 24]}}, b"\0" * 24), "leaves a gap"),
    "bytes at the end": (packed({"a": F32}, b"\0" * 20), "12 bytes behind the last tensor"),
    "a file cut short": (packed({"a": F32}, b"\0" * 3), "5 bytes are missing"),
    "metadata that is no text": (packed({"__metadata__": {"a": 1}}), "__metadata__"),
    "a zip": (b"PK\x03\x04" + b"\0" * 60, "convert it with"),
    "a pickle": (b"\x80\x02}q\0(X\x0a\0\0\0state_dict", "convert it with"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n", "git lfs pull"),
    "a web page": (b"<!DOCTYPE html>\n<html><head><title>401</title>", "a web page"),
    "a page without a doctype": (b"\n<html lang=en><body>Access denied</body></html>", "a web page"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_its_name_and_its_flaw(name: str, tmp_path: Path) -> None:
    content, flaw = HOSTILE[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(HeaderError) as caught:
        read_header(path)
    assert flaw in str(caught.value)
    assert str(path) in str(caught.value)
    assert "expected" in str(caught.value)


def test_a_sound_header_tells_keys_shapes_and_places(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    scalar = {"dtype": "BF16", "shape": [], "data_offsets": [8, 10]}
    empty = {"dtype": "F32", "shape": [0, 3], "data_offsets": [10, 10]}
    content = packed({"__metadata__": {"title": "t"}, "a": F32, "b": scalar, "c": empty}, b"\0" * 10)
    path.write_bytes(content)
    header = read_header(path)
    assert {key: info.shape for key, info in header.tensors.items()} == {"a": (2,), "b": (), "c": (0, 3)}
    assert header.metadata == {"title": "t"}
    assert header.data_start == len(content) - 10
    assert header.file_size == len(content)


def test_a_header_whose_length_looks_like_a_pickle_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    text = json.dumps({"w": F32}).encode().ljust(0x0280)  # a length of bytes 80 02, which is how pickles begin
    path.write_bytes(packed(text, b"\0" * 8))
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert list(read_header(path).tensors) == ["w"]


def test_a_pickle_under_its_own_name_gets_the_same_advice(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"PK\x03\x04" + b"\0" * 60)
    with pytest.raises(HeaderError, match=r"model\.ckpt model\.safetensors"):
        read_header(path)


@pytest.mark.parametrize(
    ("dtype", "data"),
    [
        ("F32", struct.pack("<3f", 1.5, -2.0, 0.25)),
        ("F64", struct.pack("<3d", 1.5, -2.0, 0.25)),
        ("F16", struct.pack("<3e", 1.5, -2.0, 0.25)),
        ("BF16", b"\xc0\x3f\x00\xc0\x80\x3e"),
    ],
)
def test_a_small_tensor_is_read_in_every_float_format(dtype: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    first = {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}
    path.write_bytes(
        packed({"a": first, "w": {"dtype": dtype, "shape": [3], "data_offsets": [3, 3 + len(data)]}}, b"abc" + data)
    )
    assert list(read_floats(read_header(path), "w")) == [1.5, -2.0, 0.25]


def test_no_large_tensor_is_read_for_its_values(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(packed({"w": {"dtype": "F32", "shape": [1_000_001], "data_offsets": [0, 4_000_004]}}))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 4_000_004)
    with pytest.raises(HeaderError, match="1000001 values"):
        read_floats(read_header(path), "w")


def test_describing_a_checkpoint_loads_no_torch() -> None:
    heavy = {"torch", "diffusers", "transformers", "numpy"}
    code = f"import sys, latentgraph.diffusion.checkpoints.describe; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
