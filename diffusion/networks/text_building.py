"""Builds the text encoders of transformers and diffusers from a spec, without weights; see `building`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    MistralConfig,
    MistralModel,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from ..families.text_specs import (
    CLIP_BEGIN,
    CLIP_END,
    BertSpec,
    ClassSpec,
    ClipTextSpec,
    DecoderSpec,
    SegmentSpec,
    T5Spec,
    TextEncoderSpec,
    TextKind,
)


def build_text_encoder(spec: TextEncoderSpec, *, exact: bool = False) -> nn.Module:
    """Returns the text encoder of this structure: transformers' CLIP text model or T5EncoderModel, or diffusers' LDMBertModel.

    exact: with attention in the order of operations that results are compared in. T5's second name for its token table is left
    out.
    """
    with torch.device("meta"):
        return _BUILDERS[spec.kind](spec, exact)


def _build_clip(spec: ClipTextSpec, exact: bool) -> nn.Module:
    config = CLIPTextConfig(
        vocab_size=spec.vocab,
        hidden_size=spec.width,
        intermediate_size=spec.intermediate,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        max_position_embeddings=spec.positions,
        hidden_act=spec.activation,
        projection_dim=spec.projection_width or spec.width,
        bos_token_id=CLIP_BEGIN,
        eos_token_id=CLIP_END,
        pad_token_id=spec.pad_id,
        attn_implementation="eager" if exact else "sdpa",
    )
    network: nn.Module = (CLIPTextModelWithProjection if spec.projection_width else CLIPTextModel)(config)
    return network


def _build_t5(spec: T5Spec, exact: bool) -> nn.Module:
    config = T5Config(
        vocab_size=spec.vocab,
        d_model=spec.width,
        d_kv=spec.head_width,
        d_ff=spec.intermediate,
        num_layers=spec.layers,
        num_heads=spec.heads,
        relative_attention_num_buckets=spec.buckets,
        feed_forward_proj="gated-gelu" if spec.gated else "relu",
        attn_implementation=_EXACT_T5 if exact else "sdpa",
    )
    if spec.gated:
        config.dense_act_fn = "gelu_pytorch_tanh"  # the same function as "gelu_new", in one kernel
    network: nn.Module = T5EncoderModel(config)
    network.encoder.embed_tokens = None  # type: ignore[union-attr]
    return network


def _build_bert(spec: BertSpec, exact: bool) -> nn.Module:
    config = LDMBertConfig(
        vocab_size=spec.vocab,
        max_position_embeddings=spec.positions,
        encoder_layers=spec.layers,
        encoder_ffn_dim=spec.intermediate,
        encoder_attention_heads=spec.heads,
        head_dim=spec.head_width,
        d_model=spec.width,
    )
    network: nn.Module = LDMBertModel(config)
    if not spec.logits:
        network.to_logits = nn.Identity()
    return network


def _build_classes(spec: ClassSpec, exact: bool) -> nn.Module:
    return nn.ModuleDict({"embedding": nn.Embedding(spec.vocab, spec.width)})


def _build_segments(spec: SegmentSpec, exact: bool) -> nn.Module:
    return nn.ModuleDict({"channel_mapper": nn.Conv2d(spec.vocab, spec.channels, 1, bias=False)})


def _build_decoder(spec: DecoderSpec, exact: bool) -> nn.Module:
    """The last norm is left out: layers are read as they are.

    Attention is the same whether exact or not: FLUX.2 reads the states of padding too, and what they are where nothing is
    attended to differs from one way of computing it to another.
    """
    config, model = (Qwen3Config, Qwen3Model) if spec.query_norm else (MistralConfig, MistralModel)
    network: nn.Module = model(
        config(
            vocab_size=spec.vocab,
            hidden_size=spec.hidden,
            intermediate_size=spec.intermediate,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            num_key_value_heads=spec.key_heads,
            head_dim=spec.head_width,
            rms_norm_eps=spec.epsilon,
            rope_parameters={"rope_type": "default", "rope_theta": spec.rope_base},
            use_cache=False,
            attn_implementation="sdpa",
        )
    )
    network.norm = nn.Identity()
    return network


def restore_buffers(network: nn.Module, device: torch.device) -> None:
    """Gives a network what no file holds and the meta device left empty: positions 0, 1, 2, ..., rotary frequencies."""
    for module in network.modules():
        buffers = dict(module.named_buffers(recurse=False))
        if (positions := buffers.get("position_ids")) is not None:
            count = positions.shape[-1]
            module.register_buffer("position_ids", torch.arange(count, device=device)[None], persistent=False)
        if "inv_freq" in buffers:
            with torch.device(device):
                made = type(module)(module.config)
            for name, buffer in made.named_buffers():
                module.register_buffer(name, buffer, persistent=False)


_BUILDERS: Mapping[TextKind, Callable[[Any, bool], nn.Module]] = {
    "clip": _build_clip,
    "t5": _build_t5,
    "bert": _build_bert,
    "classes": _build_classes,
    "segments": _build_segments,
    "decoder": _build_decoder,
}


def exact_t5_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    position_bias: Tensor,
    **_: object,
) -> tuple[Tensor, None]:
    """Returns T5's attention (B, N, heads, D) in a fixed order of operations; q, k, v: (B, heads, N, D).

    As in ComfyUI 0.8.0 on a CPU (behaviour): keys times sqrt(D), scores divided by it, then the position bias.
    """
    width = query.shape[-1]
    scores = torch.einsum("bhnd,bhmd->bhnm", query, key * width**0.5) * width**-0.5
    scores = (scores + position_bias).softmax(dim=-1)
    return torch.einsum("bhnm,bhmd->bhnd", scores, value).transpose(1, 2), None


_EXACT_T5 = "latentgraph_exact_t5"
AttentionInterface.register(_EXACT_T5, exact_t5_attention)  # a name more; what others use is as it was
