"""The structure of a text encoder, read from the names and shapes of its tensors: CLIP's, T5's, BERT's, and language models'.

Every layout of a kind gives the same spec. `shapes` are keys without any prefix; this module reads no file and loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from itertools import count, takewhile
from typing import Any

from ..families.text_sets import (
    BertReading,
    ClassReading,
    ClipReading,
    DecoderReading,
    SegmentReading,
    T5Reading,
    TextEncoderLayout,
)
from ..families.text_specs import (
    BertSpec,
    ClassSpec,
    ClipTextSpec,
    DecoderSpec,
    EncoderKey,
    SegmentSpec,
    T5Spec,
    TextEncoderSpec,
)
from .structure import Shapes, StructureError, shape_of

HEAD_WIDTH = 64  # of every CLIP text model in use, and of latent diffusion's BERT


def read_text_encoder(shapes: Shapes, layout: TextEncoderLayout) -> TextEncoderSpec:
    """Returns a text encoder's structure; what shapes do not tell is the family's. Raises StructureError."""
    return _READERS[type(layout.reading)](shapes, layout.key, layout.reading)


def configured(spec: TextEncoderSpec, layout: TextEncoderLayout, config: Mapping[str, Any]) -> TextEncoderSpec:
    """Returns the structure with what the config of a diffusers folder adds to the shapes; without a config, as it is.

    Raises StructureError.
    """
    if not config or not isinstance(spec, ClipTextSpec) or not isinstance(layout.reading, ClipReading):
        return spec
    heads, activation = config.get("num_attention_heads", spec.heads), config.get("hidden_act")
    if not isinstance(heads, int) or heads < 1 or spec.width % heads:
        raise StructureError(f"{layout.key} has {heads!r} attention heads for a width of {spec.width}")
    if activation not in {"quick_gelu", "gelu", None}:
        raise StructureError(f"{layout.key} has the activation {activation!r}, neither quick_gelu nor gelu")
    return replace(
        spec,
        heads=heads,
        activation=activation or spec.activation,
        default_layer=layout.reading.folder_default_layer,
    )


@dataclass(frozen=True, slots=True)
class TextNames:
    """The names by which a layout of CLIP's text model is told; `fc1` has a place for the layer."""

    tokens: str
    positions: str
    fc1: str


_TRANSFORMERS = TextNames(
    tokens="embeddings.token_embedding.weight",
    positions="embeddings.position_embedding.weight",
    fc1="encoder.layers.{}.mlp.fc1.weight",
)
TEXT_NAMES = (
    TextNames(*(f"text_model.{name}" for name in (_TRANSFORMERS.tokens, _TRANSFORMERS.positions, _TRANSFORMERS.fc1))),
    _TRANSFORMERS,
    TextNames("token_embedding.weight", "positional_embedding", "transformer.resblocks.{}.mlp.c_fc.weight"),
)


def _read_clip(shapes: Shapes, key: EncoderKey, reading: ClipReading) -> ClipTextSpec:
    names = next((names for names in TEXT_NAMES if names.tokens in shapes), None)
    if names is None:
        raise StructureError(f"{key} has no token embedding")
    vocab, width = shape_of(shapes, names.tokens, 2)
    projection = next((shapes[name] for name in ("text_projection.weight", "text_projection") if name in shapes), None)
    transposed = "text_projection.weight" in shapes  # a Linear's weight is (out, in); OpenCLIP's matrix is (in, out)
    return ClipTextSpec(
        key=key,
        width=width,
        layers=_layers(shapes, names.fc1, key),
        heads=max(1, width // HEAD_WIDTH),
        intermediate=shape_of(shapes, names.fc1.format(0), 2)[0],
        vocab=vocab,
        positions=shape_of(shapes, names.positions, 2)[0],
        activation=reading.activation,
        pad_id=reading.pad_id,
        default_layer=reading.default_layer,
        final_norm_on_hidden=reading.final_norm_on_hidden,
        pooled=reading.pooled,
        projection_width=None if projection is None else projection[0 if transposed else 1],
    )


T5_BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
T5_QUERY = "encoder.block.{}.layer.0.SelfAttention.q.weight"
T5_TOKENS = ("shared.weight", "encoder.embed_tokens.weight")  # one tensor by two names; files have either or both


def _read_t5(shapes: Shapes, key: EncoderKey, reading: T5Reading) -> T5Spec:
    tokens = next((name for name in T5_TOKENS if name in shapes), T5_TOKENS[0])
    vocab, width = shape_of(shapes, tokens, 2)
    buckets, heads = shape_of(shapes, T5_BIAS, 2)
    inner = shape_of(shapes, T5_QUERY.format(0), 2)[0]
    if inner % heads:
        raise StructureError(f"{key} has queries of {inner} numbers, which {heads} heads can't share equally")
    feed_forward = "encoder.block.0.layer.1.DenseReluDense."
    gated = f"{feed_forward}wi_1.weight" in shapes
    return T5Spec(
        key=key,
        width=width,
        layers=_layers(shapes, T5_QUERY, key),
        heads=heads,
        head_width=inner // heads,
        intermediate=shape_of(shapes, f"{feed_forward}{'wi_0' if gated else 'wi'}.weight", 2)[0],
        vocab=vocab,
        buckets=buckets,
        gated=gated,
        least=reading.least,
    )


@dataclass(frozen=True, slots=True)
class BertNames:
    """The names by which a layout of latent diffusion's BERT is told; `query` has a place for the layer."""

    tokens: str
    positions: str
    query: str
    fc1: str
    logits: str


BERT_POSITIONS = 77  # of latent diffusion's prompts; its model of layouts has 92

BERT_NAMES = (
    BertNames(  # latent diffusion's own, whose layers alternate between attention and feed-forward
        tokens="token_emb.weight",
        positions="pos_emb.emb.weight",
        query="attn_layers.layers.{}.1.to_q.weight",
        fc1="attn_layers.layers.1.1.net.0.0.weight",
        logits="to_logits.weight",
    ),
    BertNames(  # diffusers'
        tokens="model.embed_tokens.weight",
        positions="model.embed_positions.weight",
        query="model.layers.{}.self_attn.q_proj.weight",
        fc1="model.layers.0.fc1.weight",
        logits="to_logits.weight",
    ),
)


def _read_bert(shapes: Shapes, key: EncoderKey, reading: BertReading) -> BertSpec:
    names = next((names for names in BERT_NAMES if names.tokens in shapes), None)
    if names is None:
        raise StructureError(f"{key} has no token embedding")
    vocab, width = shape_of(shapes, names.tokens, 2)
    positions = shape_of(shapes, names.positions, 2)[0]
    if positions != BERT_POSITIONS:
        told = f"{key} reads {positions} tokens at a time, not {BERT_POSITIONS}"
        raise StructureError(f"{told}: it is told where things are in a picture, not words, which is not supported")
    steps = 2 if names is BERT_NAMES[0] else 1
    queries = takewhile(shapes.__contains__, (names.query.format(steps * n) for n in count()))
    inner = shape_of(shapes, names.query.format(0), 2)[0]
    head_width = min(HEAD_WIDTH, inner)
    return BertSpec(
        key=key,
        width=width,
        layers=sum(1 for _ in queries),
        heads=inner // head_width,
        head_width=head_width,
        intermediate=shape_of(shapes, names.fc1, 2)[0],
        vocab=vocab,
        positions=positions,
        logits=names.logits in shapes,
    )


def _read_classes(shapes: Shapes, key: EncoderKey, reading: ClassReading) -> ClassSpec:
    classes, width = shape_of(shapes, "embedding.weight", 2)
    return ClassSpec(key=key, width=width, vocab=classes)


def _read_segments(shapes: Shapes, key: EncoderKey, reading: SegmentReading) -> SegmentSpec:
    channels, classes = shape_of(shapes, "channel_mapper.weight", 4)[:2]
    return SegmentSpec(key=key, vocab=classes, channels=channels)


# The first two are of models that also see.
DECODER_PREFIXES = ("model.language_model.", "language_model.model.", "model.", "")
_DECODER_QUERY = "layers.{}.self_attn.q_proj.weight"
_DECODER_GATE = "layers.0.mlp.gate_proj.weight"


def decoder_prefix(keys: Collection[str]) -> str | None:
    """Returns the prefix below which a file keeps a language model, or None if it has none."""
    return next((prefix for prefix in DECODER_PREFIXES if prefix + _DECODER_GATE in keys), None)


_OTHER_MARKS = {
    "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight": "UMT5, the text encoder of Wan",
    "layers.0.post_feedforward_layernorm.weight": "Gemma, a language model",
    "layers.0.self_attn.q_proj.bias": "Qwen2.5 or its like, a language model",
}
_OTHER_VOCABULARIES = {128256: "Llama 3, a language model"}


def other_text_encoder(shapes: Shapes) -> str | None:
    """Returns the name of a text encoder in the layout of those that are read here, but of which none is; else None."""
    prefix = decoder_prefix(shapes) or ""
    named = (name for key, name in _OTHER_MARKS.items() if prefix + key in shapes)
    words = shapes.get(f"{prefix}embed_tokens.weight", (0,))[0]
    return next(named, _OTHER_VOCABULARIES.get(words))


def _read_decoder(shapes: Shapes, key: EncoderKey, reading: DecoderReading) -> DecoderSpec:
    prefix = decoder_prefix(shapes) or ""
    vocab, hidden = shape_of(shapes, f"{prefix}embed_tokens.weight", 2)
    norm = shapes.get(f"{prefix}layers.0.self_attn.q_norm.weight")
    head_width = norm[0] if norm else reading.head_width
    queries, keys = (shape_of(shapes, f"{prefix}layers.0.self_attn.{name}_proj.weight", 2)[0] for name in "qk")
    if queries % head_width or keys % head_width or not keys or (queries // head_width) % (keys // head_width):
        raise StructureError(f"{key} has queries of {queries} and keys of {keys} numbers, no heads of {head_width}")
    layers = count_layers(shapes, prefix + _DECODER_QUERY)
    if layers < max(reading.read):
        raise StructureError(f"{key} has {layers} layers, of which the {max(reading.read)}th would be read")
    return DecoderSpec(
        key=key,
        hidden=hidden,
        read=reading.read,
        heads=queries // head_width,
        key_heads=keys // head_width,
        head_width=head_width,
        intermediate=shape_of(shapes, prefix + _DECODER_GATE, 2)[0],
        vocab=vocab,
        query_norm=norm is not None,
        rope_base=reading.rope_base,
        epsilon=reading.epsilon,
        dialogue=reading.dialogue,
    )


_READERS: Mapping[type, Callable[[Shapes, EncoderKey, Any], TextEncoderSpec]] = {
    ClipReading: _read_clip,
    T5Reading: _read_t5,
    BertReading: _read_bert,
    ClassReading: _read_classes,
    SegmentReading: _read_segments,
    DecoderReading: _read_decoder,
}


def count_layers(shapes: Shapes, template: str) -> int:
    """Returns how many layers have a tensor of a name with a place for the layer's number, without a gap."""
    return sum(1 for _ in takewhile(shapes.__contains__, map(template.format, count())))


def _layers(shapes: Shapes, template: str, key: EncoderKey) -> int:
    layers = count_layers(shapes, template)
    if not layers:
        raise StructureError(f"{key} has no layers")
    return layers
