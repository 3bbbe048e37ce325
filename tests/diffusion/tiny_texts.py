"""Small text encoders with made-up weights that float16 holds exactly, in the layouts of their files, and their tokenizers.

Models are made once and are not to be changed. Widths go together with the transformers of `tiny_dits`: text of 48 numbers a
token, a pooled vector of 24 (FLUX) or 40 (SD3).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    MistralConfig,
    MistralForCausalLM,
    T5Config,
    T5EncoderModel,
)

VECTORS = Path(__file__).parents[1] / "vectors"
SPIECE = VECTORS / "spiece.model"
WORDS = (
    "[PAD]",
    *(f"[unused{n}]" for n in range(99)),
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "cat",
    "mat",
    "##s",
    "on",
    ",",
)
"""A vocabulary of BERT's, with its marks where BERT has them."""


MARKS = {
    "qwen3": {
        151643: "<|endoftext|>",
        151644: "<|im_start|>",
        151645: "<|im_end|>",
        151667: "<think>",
        151668: "</think>",
    },
    "mistral": {1: "<s>", 3: "[INST]", 4: "[/INST]", 11: "<pad>", 17: "[SYSTEM_PROMPT]", 18: "[/SYSTEM_PROMPT]"},
}
"""The marks of each vocabulary that its dialogue needs, by their ids."""


@cache
def clip_l(width: int = 24) -> CLIPTextModelWithProjection:
    """A CLIP-L whose projection changes nothing, as in SD3's files."""
    model = _clip(width, layers=3, activation="quick_gelu", projection=width, pad=49407)
    model.text_projection.weight.data = torch.eye(width)
    return model


@cache
def clip_g(width: int = 24) -> CLIPTextModelWithProjection:
    """A CLIP-G, as deep as a file must be to be taken for one."""
    return _clip(width, layers=32, activation="gelu", projection=16, pad=0)


@cache
def t5(width: int = 48, vocab: int = 200) -> T5EncoderModel:
    """A T5 1.1 encoder."""
    config = T5Config(
        d_model=width, d_kv=16, d_ff=96, num_layers=3, num_heads=2, vocab_size=vocab, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return filled(T5EncoderModel(config))


def bert_shapes(width: int = 48, layers: int = 2, heads: int = 2) -> dict[str, tuple[int, ...]]:
    """The keys of latent diffusion's BERTEmbedder, written down from its own names."""
    inner = 64 * heads
    shapes: dict[str, tuple[int, ...]] = {
        "token_emb.weight": (len(WORDS), width),
        "pos_emb.emb.weight": (77, width),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "to_logits.weight": (len(WORDS), width),
        "to_logits.bias": (len(WORDS),),
    }
    for n in range(layers):
        attention, feed_forward = f"attn_layers.layers.{2 * n}", f"attn_layers.layers.{2 * n + 1}"
        for layer in (attention, feed_forward):
            shapes |= {f"{layer}.0.weight": (width,), f"{layer}.0.bias": (width,)}
        shapes |= {f"{attention}.1.to_{name}.weight": (inner, width) for name in "qkv"}
        shapes |= {f"{attention}.1.to_out.weight": (width, inner), f"{attention}.1.to_out.bias": (width,)}
        shapes |= {f"{feed_forward}.1.net.0.0.weight": (96, width), f"{feed_forward}.1.net.0.0.bias": (96,)}
        shapes |= {f"{feed_forward}.1.net.2.weight": (width, 96), f"{feed_forward}.1.net.2.bias": (width,)}
    return shapes


def bert() -> dict[str, Tensor]:
    """The weights of latent diffusion's BERT, by its own names."""
    draws = torch.Generator().manual_seed(5)
    return {key: draw(shape, draws) for key, shape in bert_shapes().items()}


def weights(model: torch.nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Returns a model's weights for a file, one of each that are one tensor by two names."""
    tied = "encoder.embed_tokens.weight"
    return {prefix + key: tensor.clone() for key, tensor in model.state_dict().items() if key != tied}


def write_encoders(folder: Path, *, tokenizer: bool = True) -> Path:
    """Writes clip_l, clip_g and t5xxl as people have them, with T5's tokenizer beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in (("clip_l", clip_l()), ("clip_g", clip_g()), ("t5xxl", t5())):
        save_file(weights(model), folder / f"{name}.safetensors")
    if tokenizer:
        (folder / "spiece.model").write_bytes(SPIECE.read_bytes())
    return folder


def write_bert(folder: Path, prefix: str = "cond_stage_model.transformer.") -> Path:
    """Writes latent diffusion's BERT and its vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({prefix + key: tensor for key, tensor in bert().items()}, folder / "bert.safetensors")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return folder


MISTRAL_WIDTH = 32


def mistral() -> MistralForCausalLM:
    """A Mistral, as deep as FLUX.2 dev reads it."""
    config = MistralConfig(
        hidden_size=MISTRAL_WIDTH, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=128,
        num_hidden_layers=31, vocab_size=300, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 1e9},
    )  # fmt: skip
    return filled(MistralForCausalLM(config))


def write_mistral(folder: Path) -> Path:
    """Writes a Mistral and its tokenizer."""
    save_file(weights(mistral()), folder / "mistral.safetensors")
    vocabulary("mistral").save(str(folder / "mistral.tokenizer.json"))
    return folder


def vocabulary(key: str) -> Tokenizer:
    """Bytes as words, at ids that are free, and the marks of a vocabulary at theirs."""
    marks = MARKS[key]
    free = (n for n in range(20, 400) if n not in marks)
    words = dict(zip(sorted(pre_tokenizers.ByteLevel.alphabet()), free, strict=False))
    tokenizer = Tokenizer(BPE(words | {mark: n for n, mark in marks.items()}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False) for mark in marks.values()])
    return tokenizer


def filled(model: torch.nn.Module) -> torch.nn.Module:
    """Returns a model with made-up weights."""
    draws = torch.Generator().manual_seed(7)
    state: Mapping[str, Tensor] = model.state_dict()
    model.load_state_dict({key: draw(tuple(tensor.shape), draws, key) for key, tensor in state.items()})
    if hasattr(model, "shared"):
        model.encoder.embed_tokens.weight = model.shared.weight
    return model.eval()


def draw(shape: tuple[int, ...], draws: torch.Generator, key: str = "") -> Tensor:
    centre = 1.0 if "norm" in key and key.endswith("weight") else 0.0
    return (0.1 * torch.randn(shape, generator=draws) + centre).half().float()


def _clip(width: int, *, layers: int, activation: str, projection: int, pad: int) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=1, hidden_act=activation,
        projection_dim=projection, bos_token_id=49406, eos_token_id=49407, pad_token_id=pad,
    )  # fmt: skip
    return filled(CLIPTextModelWithProjection(config))
