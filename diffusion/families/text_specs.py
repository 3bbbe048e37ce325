"""The structure of text encoders, and how a prompt is framed for each. Data, without torch.

Each encoder is of a kind, which says how its network is built and run; everything that families do differently with it is in
the fields here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

EncoderKey = Literal["clip_l", "clip_g", "clip_h", "t5xxl", "bert", "qwen3", "mistral", "classes", "segments"]
TextKind = Literal["clip", "t5", "bert", "decoder", "classes", "segments"]
KINDS: Mapping[EncoderKey, TextKind] = {
    "clip_l": "clip",
    "clip_g": "clip",
    "clip_h": "clip",
    "t5xxl": "t5",
    "bert": "bert",
    "classes": "classes",
    "segments": "segments",
    "qwen3": "decoder",
    "mistral": "decoder",
}
WORDLESS: Mapping[TextKind, tuple[str, str]] = {
    "classes": ("classes by number", "ClassConditioning"),
    "segments": ("classes by a picture", "SegmentConditioning"),
}
"""What a model is told that reads no prompts, and the node that tells it."""

Activation = Literal["quick_gelu", "gelu"]

CLIP_BEGIN, CLIP_END = 49406, 49407
"""<|startoftext|> and <|endoftext|>, with which CLIP-L also pads; OpenCLIP's models pad with 0."""


@dataclass(frozen=True, slots=True)
class Framing:
    """What stands around the tokens of a prompt. begin: the id before them, if any. end, pad: the ids after them.

    chunk: how many tokens the encoder reads at a time; None for as many as there are. least: to how many a chunk is padded.
    """

    begin: int | None
    end: int
    pad: int
    chunk: int | None
    least: int


@dataclass(frozen=True, slots=True)
class ClipTextSpec:
    """One CLIP text model, and how its family reads it.

    default_layer: the hidden layer that makes the embedding, -1 the last. final_norm_on_hidden: whether that layer goes
    through the final layer norm. pooled: what this encoder adds to the pooled vector: the end token's final state
    ("state"), that state times the text projection ("projected"), or nothing (None). projection_width: columns of the
    text projection, None where the file has none.
    """

    kind: ClassVar[TextKind] = "clip"

    key: EncoderKey
    width: int
    layers: int
    heads: int
    intermediate: int
    vocab: int
    positions: int
    activation: Activation
    pad_id: int
    default_layer: int
    final_norm_on_hidden: bool
    pooled: Literal["state", "projected"] | None
    projection_width: int | None = None

    @property
    def pooled_width(self) -> int:
        """Width of what this encoder adds to the pooled vector."""
        if self.pooled == "projected":
            return self.projection_width or 0
        return self.width if self.pooled == "state" else 0

    @property
    def framing(self) -> Framing:
        """What stands around the tokens of a prompt."""
        return Framing(CLIP_BEGIN, CLIP_END, self.pad_id, chunk=self.positions, least=self.positions)


@dataclass(frozen=True, slots=True)
class T5Spec:
    """The encoder of a T5. head_width: of keys and values. gated: T5 1.1's feed-forward; without, T5 1.0's with ReLU.

    buckets: of the relative position bias. least: to how many tokens its family pads a prompt. Raffel et al. 2020,
    arXiv:1910.10683; gated: Shazeer 2020, arXiv:2002.05202.
    """

    kind: ClassVar[TextKind] = "t5"
    pooled_width: ClassVar[int] = 0
    default_layer: ClassVar[int] = -1
    final_norm_on_hidden: ClassVar[bool] = True

    key: EncoderKey
    width: int
    layers: int
    heads: int
    head_width: int
    intermediate: int
    vocab: int
    buckets: int
    gated: bool
    least: int

    @property
    def framing(self) -> Framing:
        """What stands around the tokens of a prompt."""
        return Framing(begin=None, end=1, pad=0, chunk=None, least=self.least)


@dataclass(frozen=True, slots=True)
class BertSpec:
    """The transformer of latent diffusion's first text-to-image model, over BERT's words. head_width: of queries and keys.

    Rombach et al. 2022, arXiv:2112.10752, appendix E.2.1.
    """

    kind: ClassVar[TextKind] = "bert"
    pooled_width: ClassVar[int] = 0
    default_layer: ClassVar[int] = -1
    final_norm_on_hidden: ClassVar[bool] = True

    key: EncoderKey
    width: int
    layers: int
    heads: int
    head_width: int
    intermediate: int
    vocab: int
    positions: int
    logits: bool

    @property
    def framing(self) -> Framing:
        """What stands around the tokens of a prompt: [CLS] and [SEP] of BERT's vocabulary."""
        return Framing(begin=101, end=102, pad=0, chunk=self.positions, least=self.positions)


@dataclass(frozen=True, slots=True)
class ClassSpec:
    """What stands in a text encoder's place where a network is told a class: a vector for each class, as one token.

    vocab: how many classes there are; the last is that of no class in particular.
    """

    kind: ClassVar[TextKind] = "classes"
    pooled_width: ClassVar[int] = 0
    default_layer: ClassVar[int] = -1
    final_norm_on_hidden: ClassVar[bool] = False

    key: EncoderKey
    width: int
    vocab: int

    @property
    def framing(self) -> Framing:
        """Nothing stands around a class."""
        return Framing(begin=None, end=self.vocab - 1, pad=self.vocab - 1, chunk=1, least=1)


@dataclass(frozen=True, slots=True)
class SegmentSpec:
    """What stands in a text encoder's place where a network is shown a picture's classes, one a pixel: channels for each class.

    vocab: how many classes there are; channels: how many the network is shown beside its latent.
    """

    kind: ClassVar[TextKind] = "segments"
    width: ClassVar[int] = 0
    pooled_width: ClassVar[int] = 0
    default_layer: ClassVar[int] = -1
    final_norm_on_hidden: ClassVar[bool] = False

    key: EncoderKey
    vocab: int
    channels: int

    @property
    def framing(self) -> Framing:
        """Nothing stands around a class."""
        return Framing(begin=None, end=self.vocab - 1, pad=self.vocab - 1, chunk=1, least=1)


@dataclass(frozen=True, slots=True)
class Dialogue:
    """What a prompt is put into for a language model, marks and all.

    pad: the id that fills it to `least` tokens, at its left or at its right; padding is not attended to.
    """

    before: str
    after: str
    pad: int
    pad_left: bool
    least: int = 512


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """The blocks of a language model (Qwen3, Mistral), of which several layers are read at once, side by side on features.

    read: which layers, counted from the embedding; blocks behind the last are not loaded. hidden: the width of each.
    head_width: of queries and keys, of which there are `heads` and `key_heads`. query_norm: whether they are normed.
    rope_base, epsilon: of its rotary positions and its norms.
    """

    kind: ClassVar[TextKind] = "decoder"
    pooled_width: ClassVar[int] = 0
    default_layer: ClassVar[int] = -1

    key: EncoderKey
    hidden: int
    read: tuple[int, ...]
    heads: int
    key_heads: int
    head_width: int
    intermediate: int
    vocab: int
    query_norm: bool
    rope_base: float
    epsilon: float
    dialogue: Dialogue

    @property
    def width(self) -> int:
        """Width of what is read."""
        return self.hidden * len(self.read)

    @property
    def layers(self) -> int:
        """How many blocks it takes to read the last of the layers."""
        return max(self.read)

    @property
    def framing(self) -> Framing:
        """A language model has no marks beside those of its dialogue."""
        return Framing(begin=None, end=self.dialogue.pad, pad=self.dialogue.pad, chunk=None, least=self.dialogue.least)


TextEncoderSpec = ClipTextSpec | T5Spec | BertSpec | DecoderSpec | ClassSpec | SegmentSpec
