"""Writes weights in GGUF's block formats by the library that llama.cpp publishes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import torch
from torch import Tensor

Q8_0 = gguf.GGMLQuantizationType.Q8_0


def write_gguf(path: Path, tensors: Mapping[str, Tensor], *, architecture: str) -> dict[str, Tensor]:
    """Writes weights of whole blocks in Q8_0 and the rest in float32, and returns the numbers that the file stands for."""
    writer, meant = gguf.GGUFWriter(path, architecture), {}
    for key, w in tensors.items():
        if w.ndim > 1 and w.shape[-1] % 32 == 0:
            blocks = gguf.quants.quantize(w.numpy(), Q8_0)
            writer.add_tensor(key, blocks, raw_dtype=Q8_0)
            meant[key] = torch.from_numpy(gguf.quants.dequantize(blocks, Q8_0))
        else:
            writer.add_tensor(key, w.numpy())
            meant[key] = w
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant
