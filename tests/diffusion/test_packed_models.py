"""Packed files in the layouts in which people have them: FLUX as GGUF and scaled float8, T5 with llama.cpp's names, shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentgraph.diffusion.checkpoints.describe import describe_network
from latentgraph.diffusion.checkpoints.opening import open_checkpoint, open_network, open_text
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.stored import StoredEmbedding, stored_modules
from latentgraph.diffusion.text.encoding import encode_prompt

from .quantized_files import write_gguf


@pytest.fixture(scope="module")
def memory() -> WeightMemory:
    return WeightMemory(precision="exact", budget_bytes=1 << 30)


def write_scaled(path: Path, tensors: Mapping[str, Tensor], *, by_row: bool) -> dict[str, Tensor]:
    """Writes float8 matrices with scales, and returns the numbers that the file stands for."""
    written, meant = {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}, {}
    for key, w in tensors.items():
        if w.ndim == 2:
            scale = (w.abs().amax(dim=1, keepdim=True) if by_row else w.abs().max()) / 448.0
            written[key] = (w / scale).to(torch.float8_e4m3fn)
            name = "weight_scale" if by_row else "scale_weight"
            written[key.removesuffix("weight") + name] = scale
            meant[key] = written[key].float() * scale
        else:
            written[key] = meant[key] = w
    save_file(written, path)
    return meant


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.named_parameters()) | {f"{name}.weight": m.weight for name, m in stored_modules(network)}


@pytest.mark.parametrize("kind", ["GGUF", "float8", "float8 by row"])
def test_flux_in_its_makers_layout_is_the_widened_network(
    kind: str, tiny_dits: ModuleType, tmp_path: Path, memory: WeightMemory
) -> None:
    tensors = tiny_dits.original(tiny_dits.FLUX, tiny_dits.weights(tiny_dits.FLUX))
    if kind == "GGUF":
        path = tmp_path / "flux.gguf"
        meant = write_gguf(path, tensors, architecture="flux")
    else:
        path = tmp_path / "flux.safetensors"
        meant = write_scaled(path, tensors, by_row=kind.endswith("row"))
    save_file(meant, tmp_path / "wide.safetensors")
    assert describe_network(path).model.family == "flux"
    packed, wide = open_network(path, memory), open_network(tmp_path / "wide.safetensors", memory)
    with packed.weights.use() as network, wide.weights.use() as reference:
        found, expected = weights_of(network), weights_of(reference)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert len(list(stored_modules(network))) > 20
        inputs: dict[str, Any] = {
            "hidden_states": torch.randn(1, 4, 64), "encoder_hidden_states": torch.randn(1, 3, 48),
            "pooled_projections": torch.randn(1, 24), "timestep": torch.tensor([0.5]), "guidance": torch.tensor([3.5]),
            "img_ids": torch.zeros(4, 3), "txt_ids": torch.zeros(3, 3), "return_dict": False,
        }  # fmt: skip
        assert torch.equal(network(**inputs)[0], reference(**inputs)[0])


LLAMA = {
    "shared": "token_embd",
    "encoder.final_layer_norm": "enc.output_norm",
    "layer.0.layer_norm": "attn_norm",
    "layer.0.SelfAttention.q": "attn_q",
    "layer.0.SelfAttention.k": "attn_k",
    "layer.0.SelfAttention.v": "attn_v",
    "layer.0.SelfAttention.o": "attn_o",
    "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b",
    "layer.1.layer_norm": "ffn_norm",
    "layer.1.DenseReluDense.wi_0": "ffn_gate",
    "layer.1.DenseReluDense.wi_1": "ffn_up",
    "layer.1.DenseReluDense.wo": "ffn_down",
}


def llama_name(key: str) -> str:
    """Returns llama.cpp's name of a T5 encoder's tensor."""
    module = key.removesuffix(".weight")
    if module.startswith("encoder.block."):
        number, inner = module.removeprefix("encoder.block.").split(".", 1)
        return f"enc.blk.{number}.{LLAMA[inner]}.weight"
    return f"{LLAMA[module]}.weight"


def test_t5_with_llama_cpps_names_reads_prompts_as_the_widened_one_does(
    tiny_texts: ModuleType, tmp_path: Path, memory: WeightMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {llama_name(key): w for key, w in tiny_texts.weights(tiny_texts.t5(width=64)).items()}
    names = {llama_name(key): key for key in tiny_texts.weights(tiny_texts.t5(width=64))}
    meant = write_gguf(tmp_path / "t5-Q8_0.gguf", tensors, architecture="t5encoder")
    save_file({names[key]: w for key, w in meant.items()}, tmp_path / "t5.safetensors")
    (tmp_path / "spiece.model").write_bytes(tiny_texts.SPIECE.read_bytes())
    packed, wide = (open_text([tmp_path / name], memory) for name in ("t5-Q8_0.gguf", "t5.safetensors"))
    with packed.weights.use() as networks:
        assert len(list(stored_modules(networks["t5xxl"]))) >= 3 * 7
    assert packed.weights.source.size(packed.weights.policy) < wide.weights.source.size(wide.weights.policy) / 2
    with monkeypatch.context() as patch:  # of the table of words, only the rows that a prompt names are ever widened
        patch.setattr(StoredEmbedding, "weight", property(lambda module: pytest.fail("widened as a whole")))
        encode_prompt(packed, "a cat on a mat")
    texts = [encode_prompt(clip, "a cat on a mat").conditioning.entries[0].embedding for clip in (packed, wide)]
    # the widened file's float32 numbers are rounded to float16 on their way, as exact does it; the blocks' are not
    assert torch.allclose(*texts, atol=1e-2)


def test_a_sharded_folder_has_the_weights_of_the_whole_one(
    tiny_folder: Path, tmp_path: Path, memory: WeightMemory
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(tiny_folder, folder)
    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        whole = folder / part / f"{name}.safetensors"
        weights = load_file(whole)
        places = {key: f"{name}-0000{1 + n % 3}-of-00003.safetensors" for n, key in enumerate(weights)}
        for shard in set(places.values()):
            save_file({key: w for key, w in weights.items() if places[key] == shard}, folder / part / shard)
        (folder / part / f"{name}.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        whole.unlink()
    sharded, whole_one = open_checkpoint(folder, memory), open_checkpoint(tiny_folder, memory)
    assert sharded.clip is not None
    assert whole_one.clip is not None
    with sharded.model.weights.use() as network, whole_one.model.weights.use() as reference:
        assert all(torch.equal(w, reference.get_parameter(name)) for name, w in network.named_parameters())
    with sharded.clip.weights.use() as networks, whole_one.clip.weights.use() as references:
        pairs = zip(networks["clip_l"].parameters(), references["clip_l"].parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
