"""Headers of GGUF files: what they tell, and what is refused."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from latentgraph.diffusion.checkpoints.gguf import read_gguf_arrays
from latentgraph.diffusion.checkpoints.headers import HeaderError, read_header
from latentgraph.diffusion.checkpoints.tensors import BLOCKS

from .gguf_files import F16, Q4_K, Q8_0, Entry, File, number, numbers, string, strings, text

W = Entry("w", (2, 3), b"\0" * 24)


def written(path: Path, content: File | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.packed())
    return path


def test_a_sound_header_tells_keys_shapes_formats_and_places(tmp_path: Path) -> None:
    entries = [W, Entry("q", (64, 2), b"\1" * 136, Q8_0), Entry("h", (4,), b"\2" * 8, F16)]
    values = {"general.architecture": string("flux"), "n": number(7), "words": strings("a", "bc")}
    path = written(tmp_path / "model.gguf", File(entries, values))
    header = read_header(path)
    assert {key: (info.dtype, info.shape) for key, info in header.tensors.items()} == {
        "w": ("F32", (3, 2)),
        "q": ("Q8_0", (2, 64)),
        "h": ("F16", (4,)),
    }
    content = path.read_bytes()
    begin, end = (header.data_start + at for at in (header.tensors["q"].begin, header.tensors["q"].end))
    assert content[begin:end] == b"\1" * 136
    assert header.metadata == {"general.architecture": "flux", "n": "7"}
    assert header.file_size == len(content)


def test_another_alignment_moves_the_data(tmp_path: Path) -> None:
    path = written(
        tmp_path / "model.gguf", File([W], {"general.alignment": number(256), "x": string("")}, alignment=256)
    )
    assert read_header(path).data_start == 256


def test_the_keys_of_a_t5_encoder_are_those_of_transformers(tmp_path: Path) -> None:
    names = {
        "token_embd.weight": "shared.weight",
        "enc.blk.0.attn_q.weight": "encoder.block.0.layer.0.SelfAttention.q.weight",
        "enc.blk.0.attn_o.weight": "encoder.block.0.layer.0.SelfAttention.o.weight",
        "enc.blk.0.attn_rel_b.weight": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "enc.blk.11.attn_norm.weight": "encoder.block.11.layer.0.layer_norm.weight",
        "enc.blk.11.ffn_gate.weight": "encoder.block.11.layer.1.DenseReluDense.wi_0.weight",
        "enc.blk.11.ffn_up.weight": "encoder.block.11.layer.1.DenseReluDense.wi_1.weight",
        "enc.blk.11.ffn_down.weight": "encoder.block.11.layer.1.DenseReluDense.wo.weight",
        "enc.blk.11.ffn_norm.weight": "encoder.block.11.layer.1.layer_norm.weight",
        "enc.output_norm.weight": "encoder.final_layer_norm.weight",
    }
    unneeded = ("dec.blk.0.attn_q.weight", "output.weight")
    entries = [Entry(key, (2, 3), b"\0" * 24) for key in (*names, *unneeded)]
    path = written(tmp_path / "t5.gguf", File(entries, {"general.architecture": string("t5encoder")}))
    assert list(read_header(path).tensors) == list(names.values())


def test_the_words_of_a_tokenizer_are_read_on_demand(tmp_path: Path) -> None:
    values = {"before": numbers(1, -2), "tokenizer.ggml.tokens": strings("<pad>", "▁a", "ü"), "after": number(1)}
    path = written(tmp_path / "t5.gguf", File([W], values))
    assert read_gguf_arrays(path, ["tokenizer.ggml.tokens", "before", "missing"]) == {
        "tokenizer.ggml.tokens": ["<pad>", "▁a", "ü"],
        "before": [1, -2],
    }


def test_a_kernel_that_was_packed_as_rows_has_its_own_shape(tmp_path: Path) -> None:
    kernel = Entry("k", (256, 9), b"\0" * (9 * 144), Q4_K)
    path = written(tmp_path / "model.gguf", File([kernel], {"comfy.gguf.orig_shape.k": numbers(16, 16, 3, 3)}))
    assert read_header(path).tensors["k"].shape == (16, 16, 3, 3)


def array_of(kind: int, count: int) -> bytes:
    return struct.pack("<IIQ", 9, kind, count)


HOSTILE: dict[str, tuple[File | bytes, str]] = {
    "the first version": (File([W], version=1), "GGUF version 1"),
    "the other byte order": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "little-endian"),
    "nothing behind the magic": (b"GGUF", "4 bytes behind the file's end"),
    "a tensor count that lies": (File([W], tensor_count=1 << 60), "the tensor '' twice"),
    "a value of an unknown kind": (File([W], {"a": struct.pack("<I", 77)}), "the unknown kind 77"),
    "a list of lists": (File([W], {"a": array_of(9, 1)}), "a list of values of the kind 9"),
    "a list that is longer than the file": (File([W], {"a": array_of(4, 1 << 61)}), "behind the file's end"),
    "a list of more texts than bytes": (File([W], {"a": array_of(8, 1 << 40)}), "behind the file's end"),
    "a text that is longer than the file": (File([W], {"a": struct.pack("<IQ", 8, 1 << 62)}), "behind the file's end"),
    "a text that is none": (File([W], {"a": struct.pack("<IQ", 8, 2) + b"\xff\xfe"}), "bytes that are no text"),
    "a key twice": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (text("a") + number(1)),
        "the key 'a' twice",
    ),
    "a tensor twice": (File([W, W]), "the tensor 'w' twice"),
    "an alignment that is no power of two": (File([W], {"general.alignment": number(33)}), "no power of two"),
    "an alignment that is a text": (File([W], {"general.alignment": string("32")}), "no power of two"),
    "too many sides": (File([Entry("w", (1, 1, 1, 1, 6), b"\0" * 24)]), "5 sides"),
    "a format that nobody widens": (File([Entry("w", (256, 1), b"\0" * 66, 16)]), "format 16, expected one of F32"),
    "rows that are no whole blocks": (File([Entry("w", (48, 2), b"\0" * 102, Q8_0)]), "no multiple of 32"),
    "a shape that needs more bytes": (File([Entry("w", (1 << 40, 1 << 40), b"\0" * 24)]), "bytes are missing"),
    "a file cut short": (File([W]).packed()[:-10], "10 bytes are missing"),
    "overlapping tensors": (File([W, Entry("v", (2, 3), b"\0" * 24, offset=0)]), "overlaps"),
    "a crooked offset": (File([W, Entry("v", (2, 3), b"\0" * 60, offset=40)]), "is no multiple of 32"),
    "a kernel of another size": (File([W], {"comfy.gguf.orig_shape.w": numbers(5, 5)}), "said to be [5, 5] unpacked"),
    "a kernel of negative sides": (File([W], {"comfy.gguf.orig_shape.w": numbers(-2, -3)}), "said to be [-2, -3]"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_its_name_and_its_flaw(name: str, tmp_path: Path) -> None:
    content, flaw = HOSTILE[name]
    path = written(tmp_path / "model.gguf", content)
    with pytest.raises(HeaderError) as caught:
        read_header(path)
    assert flaw in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = File([W, Entry("q", (32, 2), b"\1" * 68, Q8_0)], {"a": strings("b", "c"), "n": number(1)}).packed()
    for length in range(4, len(whole) - 1):
        with pytest.raises(HeaderError):
            read_header(written(tmp_path / "model.gguf", whole[:length]))


def test_no_torch_and_no_gguf_package_is_needed(tmp_path: Path) -> None:
    path = written(tmp_path / "model.gguf", File([W]))
    program = (
        "import sys; from latentgraph.diffusion.checkpoints.headers import read_header; "
        f"read_header({str(path)!r}); assert not {{'torch', 'gguf', 'numpy'}} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_blocks_have_the_sizes_of_the_gguf_package() -> None:
    gguf = pytest.importorskip("gguf")
    for name, blocks in BLOCKS.items():
        kind = gguf.GGMLQuantizationType[name]
        assert (kind.value, gguf.GGML_QUANT_SIZES[kind]) == (blocks.code, (blocks.values, blocks.size))
