"""Language models as FLUX.2's text encoders, against diffusers' pipelines with the same weights."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import Flux2KleinPipeline, Flux2Pipeline
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from latentgraph.diffusion.checkpoints.describe import describe
from latentgraph.diffusion.checkpoints.describe_text import describe_text
from latentgraph.diffusion.checkpoints.headers import HeaderError
from latentgraph.diffusion.checkpoints.opening import open_checkpoint, open_text
from latentgraph.diffusion.families.text_sets import FLUX2_TEXT, KLEIN_TEXT
from latentgraph.diffusion.layouts.text_layout import text_layout
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.text_building import build_text_encoder
from latentgraph.diffusion.text.byte_pairs import byte_letters
from latentgraph.diffusion.text.encoding import encode_prompt

from .gguf_files import Entry, File, numbers, string, strings

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
PROMPT = "a (cat:1.2) on a mat"


@pytest.fixture(scope="module")
def models(tiny_texts: ModuleType) -> dict[str, Any]:
    qwen3 = Qwen3Config(**SMALL, num_hidden_layers=29, head_dim=16, vocab_size=151700, rope_parameters=rope(1e6))
    return {"qwen3": filled(Qwen3ForCausalLM(qwen3)), "mistral": tiny_texts.mistral()}


@pytest.fixture(scope="module")
def folder(models: dict[str, Any], tiny_texts: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("language_models")
    for key, model in models.items():
        save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, place / f"{key}.safetensors")
        tiny_texts.vocabulary(key).save(str(place / f"{key}.tokenizer.json"))
    return place


def test_a_prompt_for_klein_is_what_its_pipeline_makes_of_it(
    models: dict[str, Any], tiny_texts: ModuleType, folder: Path
) -> None:
    dialogue = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    tokenizer = Told(tiny_texts.vocabulary("qwen3"), dialogue, pad=151643)
    with torch.no_grad():
        wanted = Flux2KleinPipeline._get_qwen3_prompt_embeds(models["qwen3"], tokenizer, PROMPT)
    check(folder / "qwen3.safetensors", wanted)


def test_a_prompt_for_flux2_is_what_its_pipeline_makes_of_it(
    models: dict[str, Any], tiny_texts: ModuleType, folder: Path
) -> None:
    dialogue = f"<s>[SYSTEM_PROMPT]{SYSTEM_MESSAGE}[/SYSTEM_PROMPT][INST]{PROMPT}[/INST]"
    tokenizer = Told(tiny_texts.vocabulary("mistral"), dialogue, pad=11, left=True)
    with torch.no_grad():
        wanted = Flux2Pipeline._get_mistral_3_small_prompt_embeds(models["mistral"], tokenizer, PROMPT)
    check(folder / "mistral.safetensors", wanted)


def check(file: Path, wanted: Tensor) -> None:
    clip = open_text([file], WeightMemory(precision="exact"))
    (condition,) = encode_prompt(clip, PROMPT).conditioning.entries
    assert clip.spec.family == "flux2"
    assert condition.pooled is None
    assert condition.embedding.shape == (1, 512, 96)
    assert clip.spec.context_width == 96
    assert torch.equal(condition.embedding, wanted)


LLAMA = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
}  # fmt: skip
"""llama.cpp's names of what Qwen3's modules are called by transformers."""


def test_a_gguf_file_of_qwen3_reads_prompts_with_its_own_tokenizer(
    models: dict[str, Any], tiny_texts: ModuleType, folder: Path, tmp_path: Path
) -> None:
    entries = []
    for name, w in models["qwen3"].state_dict().items():
        module = name.removesuffix(".weight")
        block = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", module)
        key = f"blk.{block[1]}.{LLAMA[block[2]]}.weight" if block else f"{LLAMA[module]}.weight"
        entries.append(Entry(key, w.shape[::-1], w.numpy().tobytes()))
    ids = tiny_texts.vocabulary("qwen3").get_vocab()
    words = [f"unused {n}" for n in range(max(ids.values()) + 1)]
    for word, n in ids.items():
        words[n] = word
    values = {
        "general.architecture": string("qwen3"),
        "tokenizer.ggml.model": string("gpt2"),
        "tokenizer.ggml.pre": string("qwen2"),
        "tokenizer.ggml.tokens": strings(*words),
        "tokenizer.ggml.token_type": numbers(
            *(3 if word in tiny_texts.MARKS["qwen3"].values() else 1 for word in words)
        ),
        "tokenizer.ggml.merges": strings(),
    }
    (tmp_path / "qwen3.gguf").write_bytes(File(entries, values).packed())
    check_own_tokenizer("qwen3", tmp_path / "qwen3.gguf", folder)


def check_own_tokenizer(key: str, file: Path, folder: Path) -> None:
    """Checks that an encoder reads prompts with the tokenizer in its file as with the one beside the folder's."""
    clip = open_text([file], WeightMemory(precision="exact"))
    assert [(key, kept.path.name) for key, kept in clip.tokenizers] == [(key, file.name)]
    wanted = open_text([folder / f"{key}.safetensors"], WeightMemory(precision="exact"))
    found, expected = (encode_prompt(each, PROMPT).conditioning.entries[0].embedding for each in (clip, wanted))
    assert torch.equal(found, expected)


def test_a_gguf_file_of_mistral_is_refused_for_the_order_of_its_rows(tmp_path: Path) -> None:
    entries = [Entry("blk.0.attn_q.weight", (8, 8), bytes(256)), Entry("token_embd.weight", (8, 8), bytes(256))]
    (tmp_path / "m.gguf").write_bytes(File(entries, {"general.architecture": string("llama")}).packed())
    with pytest.raises(HeaderError, match=r"whose rows are in an order of its own.*Name a text encoder"):
        describe_text([tmp_path / "m.gguf"])


def test_a_mistral_with_its_tokenizer_among_its_weights_needs_no_other_file(
    tiny_texts: ModuleType, folder: Path, tmp_path: Path
) -> None:
    """ComfyUI keeps Mistral's tekken.json so. The words of a lone byte have the ids that the other tokenizer gives them."""
    ids = tiny_texts.vocabulary("mistral").get_vocab()
    letters = {letter: n for n, letter in enumerate(byte_letters())}
    vocab = [
        {"rank": n, "token_bytes": base64.b64encode(bytes([letters[word]])).decode()}
        for word, n in ids.items()
        if word in letters
    ]
    marks = [{"rank": n, "token_str": word, "is_control": True} for word, n in ids.items() if word not in letters]
    config = {"pattern": r"\s?\S+|\s+", "default_num_special_tokens": 0, "default_vocab_size": 300}
    kept = json.dumps({"config": config, "vocab": vocab, "special_tokens": marks}).encode()
    weights = load_file(folder / "mistral.safetensors")
    save_file(
        weights | {"tekken_model": torch.frombuffer(bytearray(kept), dtype=torch.uint8)}, tmp_path / "text.safetensors"
    )
    check_own_tokenizer("mistral", tmp_path / "text.safetensors", folder)


def test_a_longer_prompt_is_not_cut(folder: Path) -> None:
    clip = open_text([folder / "qwen3.safetensors"], WeightMemory(precision="exact"))
    assert encode_prompt(clip, "cat " * 200).conditioning.entries[0].embedding.shape[1] > 512


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model."])
def test_a_language_model_inside_one_that_sees_is_the_same(
    prefix: str, models: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    weights = {
        prefix + name.removeprefix("model."): tensor.clone() for name, tensor in models["mistral"].state_dict().items()
    }
    save_file(weights | {"vision_tower.patch_conv.weight": torch.zeros(4)}, tmp_path / "mistral.safetensors")
    (tmp_path / "tokenizer.json").write_bytes((folder / "mistral.tokenizer.json").read_bytes())
    first, second = (
        encode_prompt(open_text([path], WeightMemory(precision="exact")), "a cat").conditioning.entries[0].embedding
        for path in (folder / "mistral.safetensors", tmp_path / "mistral.safetensors")
    )
    assert torch.equal(first, second)


def test_blocks_behind_the_last_layer_that_is_read_are_not_built(folder: Path) -> None:
    (spec,) = describe_text([folder / "qwen3.safetensors"]).spec.encoders
    built = {name: tuple(tensor.shape) for name, tensor in build_text_encoder(spec).state_dict().items()}
    assert dict(text_layout(spec)) == built
    assert "layers.26.mlp.up_proj.weight" in built
    assert "layers.27.mlp.up_proj.weight" not in built
    assert "norm.weight" not in built


def test_a_model_of_too_few_layers_is_refused(models: dict[str, Any], tmp_path: Path) -> None:
    weights = {name: tensor.clone() for name, tensor in models["qwen3"].state_dict().items() if ".20." not in name}
    save_file(weights, tmp_path / "qwen3.safetensors")
    with pytest.raises(HeaderError, match="qwen3 has 20 layers, of which the 27th would be read"):
        describe_text([tmp_path / "qwen3.safetensors"])


LAYER = {"model.layers.0.mlp.gate_proj.weight": (8, 8)}
OTHERS = {
    "Gemma": LAYER | {"model.layers.0.post_feedforward_layernorm.weight": (8,)},
    "Qwen2.5": LAYER | {"model.layers.0.self_attn.q_proj.bias": (8,)},
    "Llama 3": LAYER | {"model.embed_tokens.weight": (128256, 8)},
    "UMT5": {f"encoder.block.{n}.layer.0.SelfAttention.relative_attention_bias.weight": (32, 2) for n in (0, 1)},
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_text_encoder_of_no_family_is_named(name: str, tiny: ModuleType, tmp_path: Path) -> None:
    path = tiny.write_skeleton(tmp_path / "text.safetensors", OTHERS[name])
    with pytest.raises(HeaderError, match=rf"found {name}.*FLUX\.2 dev reads Mistral Small"):
        describe_text([path])


def test_the_published_widths_are_those_of_the_transformers() -> None:
    assert [each.join.order[0].width for each in (FLUX2_TEXT, KLEIN_TEXT)] == [3 * 5120, 3 * 2560]


@pytest.mark.parametrize(("key", "guidance"), [("mistral", True), ("qwen3", False)])
def test_a_folder_of_diffusers_has_the_language_model_of_its_transformer(
    key: str, guidance: bool, models: dict[str, Any], folder: Path, tiny_dits: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "model_index.json").write_text(
        '{"transformer": ["diffusers", "x"], "text_encoder": ["diffusers", "y"]}'
    )
    spec = replace(tiny_dits.FLUX2, context_width=96, guidance=guidance)
    tiny_dits.network(spec).save_pretrained(tmp_path / "transformer")
    models[key].save_pretrained(tmp_path / "text_encoder")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_bytes((folder / f"{key}.tokenizer.json").read_bytes())
    clip = open_checkpoint(tmp_path, WeightMemory(precision="exact")).clip
    assert clip is not None
    assert [encoder.key for encoder in clip.spec.encoders] == [key]
    found, lone = describe(tmp_path), describe_text([folder / f"{key}.safetensors"])
    assert [part.values for part in found.clip_parts] == [
        part.values for part in lone.parts
    ]  # blocks that are read alone
    alone = open_text([folder / f"{key}.safetensors"], WeightMemory(precision="exact"))
    found, wanted = (encode_prompt(each, PROMPT).conditioning.entries[0].embedding for each in (clip, alone))
    assert torch.equal(found, wanted)


class Told:
    """A tokenizer as the pipelines use one: it is asked for a dialogue, and then for its ids, filled to a length."""

    def __init__(self, vocabulary: Any, dialogue: str, *, pad: int, left: bool = False) -> None:
        self.vocabulary, self.dialogue, self.pad, self.left = vocabulary, dialogue, pad, left

    def apply_chat_template(self, messages: Any, *, tokenize: bool, **options: Any) -> Any:
        assert PROMPT in str(messages)
        return self(self.dialogue, max_length=options["max_length"]) if tokenize else self.dialogue

    def __call__(self, text: str, *, max_length: int, **_: Any) -> dict[str, Tensor]:
        ids = self.vocabulary.encode(text, add_special_tokens=False).ids
        padding = max_length - len(ids)
        rows = ([self.pad] * padding + ids, [0] * padding + [1] * len(ids))
        if not self.left:
            rows = (ids + [self.pad] * padding, [1] * len(ids) + [0] * padding)
        return {"input_ids": torch.tensor([rows[0]]), "attention_mask": torch.tensor([rows[1]])}


def rope(base: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": base}


def filled(model: Any) -> Any:
    draws = torch.Generator().manual_seed(4)
    for name, tensor in model.state_dict().items():
        centre = 1.0 if "norm" in name else 0.0
        tensor.copy_((0.1 * torch.randn(tensor.shape, generator=draws) + centre).half().float())
    return model.eval()
