"""T5 and BERT as text encoders, and several encoders joined, against transformers' classes and diffusers' pipelines."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files as resources
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertTokenizer, CLIPTokenizer, T5Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from latentgraph.diffusion.checkpoints.opening import open_text
from latentgraph.diffusion.checkpoints.parts import file_id
from latentgraph.diffusion.families.text_joins import ClipSpec
from latentgraph.diffusion.families.text_sets import FLUX_TEXT, SD3_TEXT, TextSet
from latentgraph.diffusion.families.text_specs import T5Spec
from latentgraph.diffusion.layouts.text_structure import read_text_encoder
from latentgraph.diffusion.networks.memory import WeightMemory
from latentgraph.diffusion.networks.text_building import exact_t5_attention
from latentgraph.diffusion.networks.variants import adapt
from latentgraph.diffusion.text.encoding import encode_chunks, encode_prompt, encode_prompts
from latentgraph.diffusion.text.sentencepiece import UnigramModel, read_unigram
from latentgraph.diffusion.text.tokens import tokenize
from latentgraph.diffusion.text.vocabularies import load_vocabulary
from latentgraph.diffusion.types import Clip

from .gguf_files import Entry, File, numbers, string, strings

PROMPT = "a painting of two cats, on a mat"


@pytest.fixture(scope="module")
def models(tiny_texts: ModuleType) -> dict[str, Any]:
    return {"clip_l": tiny_texts.clip_l(), "clip_g": tiny_texts.clip_g(), "t5xxl": tiny_texts.t5()}


@pytest.fixture(scope="module")
def files(tiny_texts: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_texts.write_encoders(tmp_path_factory.mktemp("text_encoders"))


def test_a_prompt_for_sd3_is_what_its_pipeline_makes_of_it(models: dict[str, Any], tiny_texts: ModuleType) -> None:
    pipeline = StableDiffusion3Pipeline(
        transformer=None,
        scheduler=None,
        vae=None,
        text_encoder=models["clip_l"],
        tokenizer=clip_tokenizer("<|endoftext|>"),
        text_encoder_2=models["clip_g"],
        tokenizer_2=clip_tokenizer("!"),
        text_encoder_3=models["t5xxl"],
        tokenizer_3=t5_tokenizer(tiny_texts.SPIECE),
    )
    clip = clip_of(SD3_TEXT, models, tiny_texts.SPIECE)
    with torch.no_grad():
        context, _, pooled, _ = pipeline.encode_prompt(
            PROMPT, None, None, max_sequence_length=77, do_classifier_free_guidance=False, device=torch.device("cpu")
        )
    (condition,) = encode_prompt(clip, PROMPT).conditioning.entries
    assert condition.embedding.shape == (1, 77 + 77, 48)
    assert torch.equal(condition.embedding, context)
    assert torch.equal(condition.pooled, pooled)
    assert (clip.spec.context_width, clip.spec.pooled_width) == (48, 40)


def test_a_prompt_for_flux_is_what_its_pipeline_makes_of_it(models: dict[str, Any], tiny_texts: ModuleType) -> None:
    plain = models["clip_l"].text_model
    pipeline = FluxPipeline(
        transformer=None,
        scheduler=None,
        vae=None,
        text_encoder=plain,
        tokenizer=clip_tokenizer("<|endoftext|>"),
        text_encoder_2=models["t5xxl"],
        tokenizer_2=t5_tokenizer(tiny_texts.SPIECE),
    )
    clip = clip_of(FLUX_TEXT, {"clip_l": plain, "t5xxl": models["t5xxl"]}, tiny_texts.SPIECE)
    with torch.no_grad():
        context, pooled, _ = pipeline.encode_prompt(PROMPT, None, device=torch.device("cpu"), max_sequence_length=256)
    (condition,) = encode_prompt(clip, PROMPT).conditioning.entries
    assert torch.equal(condition.embedding, context)
    assert torch.equal(condition.pooled, pooled)
    assert condition.embedding.shape == (1, 256, 48)


def test_each_encoder_of_flux_has_words_of_its_own(models: dict[str, Any], tiny_texts: ModuleType) -> None:
    clip = clip_of(FLUX_TEXT, models, tiny_texts.SPIECE)
    both = entry(encode_prompts(clip, {"clip_l": "a cat", "t5xxl": PROMPT}))
    first, second = entry(encode_prompt(clip, "a cat")), entry(encode_prompt(clip, PROMPT))
    assert torch.equal(both.pooled, first.pooled)
    assert torch.equal(both.embedding, second.embedding)


SUBSETS = [("clip_l",), ("clip_g",), ("t5xxl",), ("clip_l", "clip_g"), ("clip_l", "t5xxl"), ("clip_g", "t5xxl")]


@pytest.mark.parametrize("keys", SUBSETS)
def test_sd3_does_with_any_of_its_encoders(
    keys: tuple[str, ...], models: dict[str, Any], tiny_texts: ModuleType
) -> None:
    """What is missing leaves zeros: on features to the left, in the pooled vector, and no tokens at all for T5."""
    whole = entry(encode_prompt(clip_of(SD3_TEXT, models, tiny_texts.SPIECE), PROMPT))
    part = clip_of(SD3_TEXT, {key: models[key] for key in keys}, tiny_texts.SPIECE, widths={"clip_l": 24, "clip_g": 16})
    found = entry(encode_prompt(replace(part, spec=replace(part.spec, network_width=48)), PROMPT))
    has_l, has_g, has_t5 = (key in keys for key in ("clip_l", "clip_g", "t5xxl"))
    beside = whole.embedding[:, :77].clone()
    beside[..., :24] *= has_l
    beside[..., 24:] *= has_g
    wanted = [beside] * (has_l or has_g) + [whole.embedding[:, 77:]] * has_t5
    assert torch.equal(found.embedding, torch.cat(wanted, dim=1))
    pooled = whole.pooled.clone()
    pooled[:, :24] *= has_l
    pooled[:, 24:] *= has_g
    assert torch.equal(found.pooled, pooled)


def test_without_t5_and_a_network_sd3s_text_is_as_wide_as_its_t5_would_be(
    models: dict[str, Any], tiny_texts: ModuleType
) -> None:
    clip = clip_of(SD3_TEXT, {"clip_l": models["clip_l"]}, tiny_texts.SPIECE)
    found = entry(encode_prompt(clip, "a cat"))
    assert found.embedding.shape == (1, 77, 4096)
    assert found.pooled.shape == (1, 24 + 1280)
    assert not found.embedding[..., 24:].any()


def test_encoders_without_words_are_passed_over_or_encode_the_empty_prompt(
    models: dict[str, Any], tiny_texts: ModuleType
) -> None:
    clip = clip_of(SD3_TEXT, models, tiny_texts.SPIECE)
    silent = dict.fromkeys(("clip_l", "clip_g", "t5xxl"), "")
    nothing = entry(encode_prompts(clip, silent, skip_empty=True))
    assert nothing.embedding.shape == (1, 1, 48)  # T5's end token
    assert not nothing.pooled.any()
    padded, empty = entry(encode_prompts(clip, silent)), entry(encode_prompt(clip, ""))
    assert torch.equal(padded.embedding, empty.embedding)
    half = entry(encode_prompts(clip, {**silent, "clip_g": "word " * 80}, skip_empty=True))
    assert half.embedding.shape == (1, 2 * 77 + 1, 48)
    assert torch.equal(half.embedding[:, :77, :24], empty.embedding[:, :77, :24])  # CLIP-L keeps pace with empty chunks


def test_with_all_encoders_silent_and_no_t5_there_are_77_tokens_of_zeros(
    models: dict[str, Any], tiny_texts: ModuleType
) -> None:
    clip = clip_of(SD3_TEXT, {"clip_l": models["clip_l"], "clip_g": models["clip_g"]}, tiny_texts.SPIECE)
    found = entry(encode_prompts(clip, {"clip_l": "", "clip_g": ""}, skip_empty=True))
    assert found.embedding.shape == (1, 77, 4096)
    assert not found.embedding.any()


def test_t5_takes_prompts_of_any_length_in_one_piece(models: dict[str, Any], tiny_texts: ModuleType) -> None:
    spec = spec_of(models["t5xxl"])
    ids = load_vocabulary(file_id(tiny_texts.SPIECE), "Unigram")
    for words, length in (("a", 77), ("a " * 300, 301)):
        (chunk,) = tokenize(words, spec.framing, ids=ids).chunks
        assert len(chunk) == length
        states = encode_chunks(models["t5xxl"], [chunk], spec).states
        with torch.no_grad():
            wanted = models["t5xxl"](torch.tensor([[token.value for token in chunk]])).last_hidden_state
        assert torch.equal(states, wanted)


def test_a_weighted_word_of_t5_moves_away_from_the_empty_prompt(models: dict[str, Any], tiny_texts: ModuleType) -> None:
    spec = spec_of(models["t5xxl"])
    ids = load_vocabulary(file_id(tiny_texts.SPIECE), "Unigram")
    (chunk,) = tokenize("a (cat:1.5) on", spec.framing, ids=ids).chunks
    states = encode_chunks(models["t5xxl"], [chunk], spec).states
    rows = [[token.value for token in chunk], [1, *[0] * 76]]
    with torch.no_grad():
        z, e = models["t5xxl"](torch.tensor(rows)).last_hidden_state
    weights = torch.tensor([token.weight for token in chunk])[:, None]
    assert weights.unique().tolist() == [1.0, 1.5]
    assert torch.equal(states[0], torch.where(weights == 1.0, z, (z - e) * weights + e))


def test_t5_gives_hidden_layers_with_its_final_norm(models: dict[str, Any], tiny_texts: ModuleType) -> None:
    clip = clip_of(FLUX_TEXT, models, tiny_texts.SPIECE)
    inner = entry(encode_prompt(replace(clip, layer=-2), "a cat")).embedding
    ids = load_vocabulary(file_id(tiny_texts.SPIECE), "Unigram")
    (chunk,) = tokenize("a cat", replace(spec_of(models["t5xxl"]), least=256).framing, ids=ids).chunks
    with torch.no_grad():
        rows = torch.tensor([[token.value for token in chunk]])
        hidden = models["t5xxl"](rows, output_hidden_states=True).hidden_states[-2]
        assert torch.equal(inner, models["t5xxl"].encoder.final_layer_norm(hidden))


def test_an_embedding_for_t5_stands_for_a_word(models: dict[str, Any], tiny_texts: ModuleType) -> None:
    """Vectors that only one of the encoders has are no missing ones."""
    clip = clip_of(FLUX_TEXT, models, tiny_texts.SPIECE)
    word = models["t5xxl"].shared.weight[8].detach()[None]  # "a"
    encoded = encode_prompt(clip, "embedding:tv on", find_vectors=lambda _, spec: word if spec.key == "t5xxl" else None)
    assert encoded.missing == ()
    assert torch.equal(entry(encoded).embedding, entry(encode_prompt(clip, "a on")).embedding)
    assert torch.equal(entry(encoded).pooled, entry(encode_prompt(clip, "on")).pooled)


LORA_NAMES = {
    "kohya, by SD3's place": "lora_te3_encoder_block_1_layer_0_SelfAttention_q",
    "diffusers": "text_encoder_3.encoder.block.1.layer.0.SelfAttention.q",
    "ComfyUI": "text_encoders.t5xxl.transformer.encoder.block.1.layer.0.SelfAttention.q",
}


@pytest.mark.parametrize("name", LORA_NAMES)
def test_a_lora_is_laid_on_t5(name: str, tiny_texts: ModuleType, tmp_path: Path) -> None:
    files = tiny_texts.write_encoders(tmp_path / "encoders")
    memory = WeightMemory(precision="exact")
    clip = open_text([files / f"{key}.safetensors" for key in ("clip_l", "clip_g", "t5xxl")], memory)
    draws = torch.Generator().manual_seed(1)
    down, up = (torch.randn(shape, generator=draws) for shape in ((2, 48), (32, 2)))
    save_file(
        {f"{LORA_NAMES[name]}.lora_down.weight": down, f"{LORA_NAMES[name]}.lora_up.weight": up},
        tmp_path / "l.safetensors",
    )
    adapted = adapt(clip, tmp_path / "l.safetensors", strength=0.5)
    assert adapted.unused == ()
    with clip.weights.use() as base, adapted.handle.weights.use() as patched:
        old, new = (each["t5xxl"].encoder.block[1].layer[0].SelfAttention.q.weight for each in (base, patched))
        assert torch.equal(new, (old + 0.5 * (up @ down)).half().float())
        assert patched["clip_l"].text_model.final_layer_norm.weight is base["clip_l"].text_model.final_layer_norm.weight


def test_flux_loras_name_t5_by_its_place_or_as_sd3_does(tiny_texts: ModuleType, tmp_path: Path) -> None:
    files = tiny_texts.write_encoders(tmp_path / "encoders")
    clip = open_text([files / "clip_l.safetensors", files / "t5xxl.safetensors"], WeightMemory(precision="exact"))
    for place in ("lora_te2", "lora_te3"):
        name = f"{place}_encoder_block_0_layer_1_DenseReluDense_wo"
        tensors = {f"{name}.lora_down.weight": torch.ones(1, 96), f"{name}.lora_up.weight": torch.ones(48, 1)}
        save_file(tensors, tmp_path / f"{place}.safetensors")
        assert adapt(clip, tmp_path / f"{place}.safetensors").unused == ()


def test_exact_attention_of_t5_keeps_its_order_of_operations() -> None:
    q, k, v = torch.randn(3, 1, 2, 5, 16, generator=torch.Generator().manual_seed(1))
    bias = torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(2))
    heads = []
    for head in range(2):
        scores = (q[0, head] @ (k[0, head] * 4.0).T) * 0.25 + bias[0, head]
        heads.append(scores.softmax(dim=-1) @ v[0, head])
    found, _ = exact_t5_attention(nn.Module(), q, k, v, None, position_bias=bias)
    torch.testing.assert_close(found[0], torch.stack(heads, dim=1), rtol=0, atol=1e-6)


FILES = {
    "one name for the token table": lambda weights: weights,
    "two names for it": lambda weights: weights | {"encoder.embed_tokens.weight": weights["shared.weight"].clone()},
    "the other name": lambda weights: {
        "encoder.embed_tokens.weight" if key == "shared.weight" else key: tensor for key, tensor in weights.items()
    },
    "a whole T5": lambda weights: weights | {"decoder.block.0.weight": torch.ones(4), "lm_head.weight": torch.ones(2)},
    "a checkpoint": lambda weights: {f"text_encoders.t5xxl.transformer.{key}": tensor for key, tensor in weights.items()},
}  # fmt: skip


@pytest.mark.parametrize("layout", FILES)
def test_every_layout_of_a_t5_file_gives_what_transformers_gives(
    layout: str, models: dict[str, Any], tiny_texts: ModuleType, tmp_path: Path
) -> None:
    save_file(FILES[layout](tiny_texts.weights(models["t5xxl"])), tmp_path / "t5.safetensors")
    (tmp_path / "spiece.model").write_bytes(tiny_texts.SPIECE.read_bytes())
    clip = open_text([tmp_path / "t5.safetensors"], WeightMemory(precision="exact"))
    wanted = entry(encode_prompt(clip_of(SD3_TEXT, {"t5xxl": models["t5xxl"]}, tiny_texts.SPIECE), PROMPT))
    close(entry(encode_prompt(clip, PROMPT)).embedding, wanted.embedding)


def test_a_t5_without_gates_is_built_as_such(tiny_texts: ModuleType, models: dict[str, Any], tmp_path: Path) -> None:
    weights = tiny_texts.weights(models["t5xxl"])
    plain = {key.replace("wi_0", "wi"): tensor for key, tensor in weights.items() if "wi_1" not in key}
    save_file(plain, tmp_path / "t5.safetensors")
    clip = open_text(
        [tmp_path / "t5.safetensors"], WeightMemory(precision="exact"), tokenizers={"t5xxl": tiny_texts.SPIECE}
    )
    (spec,) = clip.spec.encoders
    assert isinstance(spec, T5Spec)
    assert not spec.gated
    assert entry(encode_prompt(clip, "a")).embedding.isfinite().all()


def test_exact_keeps_t5_in_bfloat16_and_rounds_float32_to_float16(tiny_texts: ModuleType, tmp_path: Path) -> None:
    fine = {key: tensor + 1e-5 for key, tensor in tiny_texts.weights(tiny_texts.t5()).items()}
    for dtype in (torch.bfloat16, torch.float32):
        save_file({key: tensor.to(dtype) for key, tensor in fine.items()}, tmp_path / f"{dtype}.safetensors")
        clip = open_text([tmp_path / f"{dtype}.safetensors"], WeightMemory(precision="exact"), tokenizers={})
        with clip.weights.use() as networks:
            loaded = networks["t5xxl"].shared.weight
        kept = fine["shared.weight"].to(dtype)
        assert torch.equal(loaded, kept.float() if dtype == torch.bfloat16 else kept.half().float())


@pytest.mark.parametrize("prefix", ["cond_stage_model.transformer.", ""])
def test_a_prompt_for_latent_diffusion_is_what_its_pipelines_encoder_makes_of_it(
    prefix: str, tiny_texts: ModuleType, tmp_path: Path
) -> None:
    folder = tiny_texts.write_bert(tmp_path, prefix)
    clip = open_text([folder / "bert.safetensors"], WeightMemory(precision="exact"))
    tokenizer = BertTokenizer(vocab={word: n for n, word in enumerate(tiny_texts.WORDS)})
    network = reference_bert(load_file(folder / "bert.safetensors"), prefix)
    for prompt in ("a cat, on mats", "A CAT dog"):
        ids = tokenizer(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            wanted = network(ids)[0]
        found = entry(encode_prompt(clip, prompt))
        assert found.pooled is None
        assert torch.equal(found.embedding, wanted)


def test_bert_written_by_diffusers_is_the_same_network(tiny_texts: ModuleType, tmp_path: Path) -> None:
    folder = tiny_texts.write_bert(tmp_path / "ldm")
    network = reference_bert(load_file(folder / "bert.safetensors"), "cond_stage_model.transformer.")
    network.save_pretrained(tmp_path / "folder")
    (tmp_path / "folder" / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes())
    theirs = open_text([tmp_path / "folder"], WeightMemory(precision="exact"))
    ours = open_text([folder / "bert.safetensors"], WeightMemory(precision="exact"))
    assert torch.equal(entry(encode_prompt(theirs, "a cat")).embedding, entry(encode_prompt(ours, "a cat")).embedding)


def test_a_long_prompt_for_bert_goes_on_in_the_next_chunk(tiny_texts: ModuleType, tmp_path: Path) -> None:
    clip = open_text([tiny_texts.write_bert(tmp_path) / "bert.safetensors"], WeightMemory(precision="exact"))
    assert entry(encode_prompt(clip, "cat " * 80)).embedding.shape == (1, 2 * 77, 48)


def test_files_of_several_encoders_are_joined_in_any_order(
    files: Path, models: dict[str, Any], tiny_texts: ModuleType
) -> None:
    names = ["t5xxl", "clip_g", "clip_l"]
    clip = open_text([files / f"{name}.safetensors" for name in names], WeightMemory(precision="exact"))
    wanted = entry(encode_prompt(clip_of(SD3_TEXT, models, tiny_texts.SPIECE), PROMPT))
    found = entry(encode_prompt(clip, PROMPT))
    assert clip.spec.family == "sd3"
    close(found.embedding, wanted.embedding)
    close(found.pooled, wanted.pooled)


def test_a_gguf_file_of_t5_brings_its_own_tokenizer(tiny_texts: ModuleType, tmp_path: Path) -> None:
    """Weights by llama.cpp's names, and its notes of the vocabulary."""
    model = read_unigram(tiny_texts.SPIECE.read_bytes(), "spiece.model")
    kinds = [2 if n == model.unknown else 1 for n in range(len(model.pieces))]
    values = {
        "general.architecture": string("t5encoder"),
        "tokenizer.ggml.model": string("t5"),
        "tokenizer.ggml.tokens": strings(*(piece for piece, _ in model.pieces)),
        "tokenizer.ggml.scores": struct.pack("<IIQ", 9, 6, len(kinds)) + struct.pack(f"<{len(kinds)}f", *scores(model)),
        "tokenizer.ggml.token_type": numbers(*kinds),
        "tokenizer.ggml.precompiled_charsmap": struct.pack("<IIQ", 9, 0, len(model.normalizer)) + model.normalizer,
    }
    weights = tiny_texts.weights(tiny_texts.t5())
    entries = [Entry(llama_name(key), w.shape[::-1], w.numpy().tobytes()) for key, w in weights.items()]
    (tmp_path / "t5.gguf").write_bytes(File(entries, values).packed())
    clip = open_text([tmp_path / "t5.gguf"], WeightMemory(precision="exact"))
    assert [(key, file.path.name) for key, file in clip.tokenizers] == [("t5xxl", "t5.gguf")]
    wanted = encode_prompt(clip_of(SD3_TEXT, {"t5xxl": tiny_texts.t5()}, tiny_texts.SPIECE), "ﬁne \u00c9l (cat:1.2)")
    close(entry(encode_prompt(clip, "ﬁne \u00c9l (cat:1.2)")).embedding, entry(wanted).embedding)


def entry(encoded: Any) -> Any:
    (condition,) = encoded.conditioning.entries
    return condition


def close(found: Tensor, wanted: Tensor) -> None:
    """Alike but for the order of operations in attention and for T5's activation, written otherwise."""
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def spec_of(model: Any) -> T5Spec:
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    spec = read_text_encoder(shapes, SD3_TEXT.encoders[-1])
    assert isinstance(spec, T5Spec)
    return spec


def clip_of(
    text_set: TextSet, models: Mapping[str, Any], spiece: Path, *, widths: Mapping[str, int] | None = None
) -> Clip:
    """A Clip around models in memory. widths: of the pooled vectors of encoders that are missing."""
    specs = []
    for layout in text_set.encoders:
        if layout.key in models:
            shapes = {key: tuple(tensor.shape) for key, tensor in models[layout.key].state_dict().items()}
            specs.append(read_text_encoder(shapes, layout))
    given = widths or {}
    order = tuple(
        replace(slot, width=given.get("clip_l", slot.width), pooled_width=given[slot.key])
        if slot.key in given
        else slot
        for slot in text_set.join.order
    )
    tokenizers = (("t5xxl", file_id(spiece)),) if "t5xxl" in models else ()

    @contextmanager
    def use() -> Iterator[Mapping[str, Any]]:
        yield models

    weights: Any = SimpleNamespace(use=use)
    spec = ClipSpec(text_set.family, tuple(specs), replace(text_set.join, order=order))
    return Clip(spec, weights, tokenizers=tokenizers)


def clip_tokenizer(pad: str) -> CLIPTokenizer:
    """transformers' tokenizer of CLIP, made from the merges that come with the package."""
    text = resources("latentgraph.diffusion.text").joinpath("clip_merges.txt").read_text(encoding="utf-8")
    merges = [tuple(line.split(" ")) for line in text.splitlines()[1:] if line]
    letters = [bytes_to_unicode()[byte] for byte in bytes_to_unicode()]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    vocabulary = {word: n for n, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=77)


def t5_tokenizer(spiece: Path) -> T5Tokenizer:
    model = read_unigram(spiece.read_bytes(), "spiece.model")
    return T5Tokenizer(vocab=list(model.pieces), _spm_precompiled_charsmap=model.normalizer, extra_ids=0)


def reference_bert(weights: Mapping[str, Tensor], prefix: str) -> LDMBertModel:
    """diffusers' LDMBertModel, filled as diffusers' conversion script does it: module by module."""
    w = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
    vocab, width = w["token_emb.weight"].shape
    config = LDMBertConfig(
        vocab_size=vocab, d_model=width, encoder_layers=2, encoder_ffn_dim=96, encoder_attention_heads=2, head_dim=64
    )
    network = LDMBertModel(config).eval()
    core = network.model
    core.embed_tokens.weight.data = w["token_emb.weight"]
    core.embed_positions.weight.data = w["pos_emb.emb.weight"]
    load(core.layer_norm, w, "norm")
    load(network.to_logits, w, "to_logits")
    for n, layer in enumerate(core.layers):
        attention, feed_forward = f"attn_layers.layers.{2 * n}", f"attn_layers.layers.{2 * n + 1}"
        load(layer.self_attn_layer_norm, w, f"{attention}.0")
        for name in "qkv":
            getattr(layer.self_attn, f"{name}_proj").weight.data = w[f"{attention}.1.to_{name}.weight"]
        load(layer.self_attn.out_proj, w, f"{attention}.1.to_out")
        load(layer.final_layer_norm, w, f"{feed_forward}.0")
        load(layer.fc1, w, f"{feed_forward}.1.net.0.0")
        load(layer.fc2, w, f"{feed_forward}.1.net.2")
    return network


def load(module: Any, weights: Mapping[str, Tensor], name: str) -> None:
    module.weight.data, module.bias.data = weights[f"{name}.weight"], weights[f"{name}.bias"]


def scores(model: UnigramModel) -> list[float]:
    return [score for _, score in model.pieces]


def llama_name(key: str) -> str:
    """llama.cpp's name of a tensor of T5's encoder."""
    if key in LLAMA_TOP:
        return LLAMA_TOP[key]
    _, _, block, _, place, module, *rest = key.split(".")
    name = LLAMA[rest[0] if len(rest) > 1 else module + place]
    return f"enc.blk.{block}.{name}.weight"


LLAMA_TOP = {"shared.weight": "token_embd.weight", "encoder.final_layer_norm.weight": "enc.output_norm.weight"}
LLAMA = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_o",
    "relative_attention_bias": "attn_rel_b",
    "layer_norm0": "attn_norm",
    "layer_norm1": "ffn_norm",
    "wi_0": "ffn_gate",
    "wi_1": "ffn_up",
    "wo": "ffn_down",
}
