"""Every tensor of a text encoder by name and shape, worked out from its spec alone; see `layout`.

Names are those of transformers' CLIP text model, without "text_model." in front, of its T5EncoderModel, Qwen3Model and
MistralModel, and of diffusers' LDMBertModel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from ..families.text_specs import (
    BertSpec,
    ClassSpec,
    ClipTextSpec,
    DecoderSpec,
    SegmentSpec,
    T5Spec,
    TextEncoderSpec,
    TextKind,
)
from .layout import Entry, dense, norm
from .structure import Shapes


@cache
def text_layout(spec: TextEncoderSpec) -> Shapes:
    """Returns the shape of each tensor of a text encoder of this structure."""
    return dict(_LAYOUTS[spec.kind](spec))


def _clip(spec: ClipTextSpec) -> Iterator[Entry]:
    width = spec.width
    yield "embeddings.token_embedding.weight", (spec.vocab, width)
    yield "embeddings.position_embedding.weight", (spec.positions, width)
    for n in range(spec.layers):
        layer = f"encoder.layers.{n}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from dense(f"{layer}.self_attn.{projection}", width, width)
        yield from norm(f"{layer}.layer_norm1", width)
        yield from dense(f"{layer}.mlp.fc1", spec.intermediate, width)
        yield from dense(f"{layer}.mlp.fc2", width, spec.intermediate)
        yield from norm(f"{layer}.layer_norm2", width)
    yield from norm("final_layer_norm", width)
    if spec.projection_width:
        yield "text_projection.weight", (spec.projection_width, width)


def _t5(spec: T5Spec) -> Iterator[Entry]:
    width, inner = spec.width, spec.heads * spec.head_width
    yield "shared.weight", (spec.vocab, width)
    for n in range(spec.layers):
        attention, feed_forward = (f"encoder.block.{n}.layer.{i}" for i in (0, 1))
        for name in ("q", "k", "v"):
            yield f"{attention}.SelfAttention.{name}.weight", (inner, width)
        yield f"{attention}.SelfAttention.o.weight", (width, inner)
        if n == 0:
            yield f"{attention}.SelfAttention.relative_attention_bias.weight", (spec.buckets, spec.heads)
        yield f"{attention}.layer_norm.weight", (width,)
        for name in ("wi_0", "wi_1") if spec.gated else ("wi",):
            yield f"{feed_forward}.DenseReluDense.{name}.weight", (spec.intermediate, width)
        yield f"{feed_forward}.DenseReluDense.wo.weight", (width, spec.intermediate)
        yield f"{feed_forward}.layer_norm.weight", (width,)
    yield "encoder.final_layer_norm.weight", (width,)


def _bert(spec: BertSpec) -> Iterator[Entry]:
    width, inner = spec.width, spec.heads * spec.head_width
    yield "model.embed_tokens.weight", (spec.vocab, width)
    yield "model.embed_positions.weight", (spec.positions, width)
    for n in range(spec.layers):
        layer = f"model.layers.{n}"
        for name in ("k_proj", "v_proj", "q_proj"):
            yield f"{layer}.self_attn.{name}.weight", (inner, width)
        yield from dense(f"{layer}.self_attn.out_proj", width, inner)
        yield from norm(f"{layer}.self_attn_layer_norm", width)
        yield from dense(f"{layer}.fc1", spec.intermediate, width)
        yield from dense(f"{layer}.fc2", width, spec.intermediate)
        yield from norm(f"{layer}.final_layer_norm", width)
    yield from norm("model.layer_norm", width)
    if spec.logits:
        yield from dense("to_logits", spec.vocab, width)


def _classes(spec: ClassSpec) -> Iterator[Entry]:
    yield "embedding.weight", (spec.vocab, spec.width)


def _segments(spec: SegmentSpec) -> Iterator[Entry]:
    yield "channel_mapper.weight", (spec.channels, spec.vocab, 1, 1)


def _decoder(spec: DecoderSpec) -> Iterator[Entry]:
    hidden, queries, keys = spec.hidden, spec.heads * spec.head_width, spec.key_heads * spec.head_width
    yield "embed_tokens.weight", (spec.vocab, hidden)
    for n in range(spec.layers):
        layer = f"layers.{n}"
        for name, out, into in (
            ("q", queries, hidden),
            ("k", keys, hidden),
            ("v", keys, hidden),
            ("o", hidden, queries),
        ):
            yield f"{layer}.self_attn.{name}_proj.weight", (out, into)
        if spec.query_norm:
            yield f"{layer}.self_attn.q_norm.weight", (spec.head_width,)
            yield f"{layer}.self_attn.k_norm.weight", (spec.head_width,)
        yield f"{layer}.mlp.gate_proj.weight", (spec.intermediate, hidden)
        yield f"{layer}.mlp.up_proj.weight", (spec.intermediate, hidden)
        yield f"{layer}.mlp.down_proj.weight", (hidden, spec.intermediate)
        yield f"{layer}.input_layernorm.weight", (hidden,)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)


_LAYOUTS: Mapping[TextKind, Callable[[Any], Iterator[Entry]]] = {
    "clip": _clip,
    "t5": _t5,
    "bert": _bert,
    "classes": _classes,
    "segments": _segments,
    "decoder": _decoder,
}
