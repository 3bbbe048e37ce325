"""From a prompt to the embedding that a denoising network attends to: tokens, encoders, weights, and how encoders are joined.

This module knows neither files nor families by name. Weights and joining as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..checkpoints.tokenizer_files import TOKENIZERS, missing_tokenizer, needs_tokenizer
from ..families.text_joins import ClipSpec
from ..families.text_specs import WORDLESS, DecoderSpec, EncoderKey, TextEncoderSpec
from ..networks.faults import check_finite
from ..types import Clip, Condition, Conditioning
from .encoders import run_encoder
from .tokens import Chunk, TextIds, TokenizedPrompt, VectorLookup, pack, tokenize, tokenize_dialogue
from .vocabularies import VocabularyError, clip_ids, load_vocabulary


@dataclass(frozen=True, eq=False, slots=True)
class EncodedPrompt:
    """A prompt ready for sampling. `missing`: embeddings that it names and that were not found, without repeats."""

    conditioning: Conditioning
    missing: tuple[str, ...]


class EncodedText(NamedTuple):
    """What one text encoder makes of a prompt: token states (1, T, D), and a pooled (1, P) or None."""

    states: Tensor
    pooled: Tensor | None


FindVectors = Callable[[str, TextEncoderSpec], Tensor | None]
"""Gives the vectors (K, D) of an `embedding:name` for an encoder, or None."""


def encode_prompt(clip: Clip, prompt: str, *, find_vectors: FindVectors | None = None) -> EncodedPrompt:
    """Returns the prompt as one condition, float32 on the CPU, its encoders joined as their family has it.

    Raises VocabularyError if the tokenizer of an encoder is not there.
    """
    tokens = _Tokens(clip, {spec.key: prompt for spec in clip.spec.encoders}, find_vectors)
    return _encode(clip, tokens)


def encode_prompts(
    clip: Clip,
    prompts: Mapping[EncoderKey, str],
    *,
    find_vectors: FindVectors | None = None,
    skip_empty: bool = False,
) -> EncodedPrompt:
    """Returns a prompt of its own for each encoder as one condition, as `encode_prompt` does.

    Of encoders side by side, the shorter prompts are filled up with empty chunks. skip_empty: an encoder without words says
    nothing, instead of what it makes of an empty prompt; one that takes prompts of any length says its end token.
    """
    tokens = _Tokens(clip, prompts, find_vectors)
    if skip_empty:
        tokens.skip_empty(prompts)
    tokens.even_out()
    return _encode(clip, tokens)


class _Tokens:
    """The chunks of each encoder of a Clip, by key, and the embeddings that no encoder found."""

    def __init__(self, clip: Clip, prompts: Mapping[EncoderKey, str], find_vectors: FindVectors | None) -> None:
        self.spec = clip.spec
        for spec in clip.spec.encoders:
            if spec.kind in WORDLESS:
                told, node = WORDLESS[spec.kind]
                raise ValueError(f"{clip.weights.source.title} is told {told}, not prompts; use {node}.")
        tokenized = {spec.key: _tokenize(clip, spec, prompts[spec.key], find_vectors) for spec in clip.spec.encoders}
        self.chunks: dict[EncoderKey, tuple[Chunk, ...]] = {key: each.chunks for key, each in tokenized.items()}
        found = {name for each in tokenized.values() for name in each.found}
        named = dict.fromkeys(name for each in tokenized.values() for name in each.missing)
        self.missing = tuple(name for name in named if name not in found)

    def skip_empty(self, prompts: Mapping[EncoderKey, str]) -> None:
        for spec in self.spec.encoders:
            if not prompts[spec.key]:
                bare = pack([], replace(spec.framing, least=1))
                self.chunks[spec.key] = bare if spec.framing.chunk is None else ()

    def even_out(self) -> None:
        for group in self.spec.join.sequence:
            length = max((len(self.chunks.get(key, ())) for key in group), default=0)
            for spec in self.spec.encoders:
                if spec.key in group:
                    self.chunks[spec.key] += pack([], spec.framing) * (length - len(self.chunks[spec.key]))


def _tokenize(clip: Clip, spec: TextEncoderSpec, prompt: str, find_vectors: FindVectors | None) -> TokenizedPrompt:
    ids = _ids_for(clip, spec)
    if isinstance(spec, DecoderSpec):
        return tokenize_dialogue(prompt, spec.dialogue, ids=ids)
    return tokenize(prompt, spec.framing, ids=ids, find_vectors=_lookup_for(spec, find_vectors))


def _encode(clip: Clip, tokens: _Tokens) -> EncodedPrompt:
    with clip.weights.use() as networks:
        encoded = {
            spec.key: encode_chunks(networks[spec.key], tokens.chunks[spec.key], spec, layer=clip.layer)
            for spec in clip.spec.encoders
            if tokens.chunks[spec.key]
        }
    condition = Condition(embedding=_context(clip.spec, encoded), pooled=_pooled(clip.spec, encoded))
    return EncodedPrompt(Conditioning((condition,)), tokens.missing)


def _context(spec: ClipSpec, encoded: Mapping[EncoderKey, EncodedText]) -> Tensor:
    """The embedding (1, T, D): groups of encoders side by side on features, one after the other along tokens."""
    parts = []
    for group in spec.join.sequence:
        present = [encoded[key].states for key in group if key in encoded]
        if present:
            length = min(states.shape[1] for states in present)
            slots = (
                encoded[key].states[:, :length] if key in encoded else torch.zeros(1, length, spec.slot(key).width)
                for key in group
            )
            beside = torch.cat(list(slots), dim=-1)
            parts.append(torch.nn.functional.pad(beside, (0, spec.context_width - beside.shape[-1])))
    return torch.cat(parts, dim=1) if parts else torch.zeros(1, BLANK_LENGTH, spec.context_width)


BLANK_LENGTH = 77  # tokens of zeros where no encoder says anything; as in ComfyUI 0.8.0 (behaviour)


def _pooled(spec: ClipSpec, encoded: Mapping[EncoderKey, EncodedText]) -> Tensor | None:
    pooled = []
    for key in spec.join.pooled:
        text = encoded.get(key)
        if text is None:
            pooled.append(torch.zeros(1, spec.slot(key).pooled_width))
        elif text.pooled is not None:
            pooled.append(text.pooled)
    return torch.cat(pooled, dim=-1) if pooled else None


@torch.no_grad()
def encode_chunks(
    model: nn.Module, chunks: Sequence[Chunk], spec: TextEncoderSpec, *, layer: int | None = None
) -> EncodedText:
    """Returns what one text encoder makes of the chunks.

    layer: the hidden layer to read, -1 the output of the last block; None is the family's own choice. A layer before
    the first stands for the final state. A token of weight w != 1 becomes (z - e) w + e, where e is what an empty
    prompt has at its place; the empty prompt is one more row of the same batch. The pooled vector is the state at the
    first end token of the first chunk, which weights do not change.
    """
    weighted = any(token.weight != 1.0 for chunk in chunks for token in chunk)
    blank = pack([], replace(spec.framing, least=len(chunks[0])))
    rows = [*chunks, *blank] if weighted else list(chunks)
    states, pooled = run_encoder(model, rows, spec, layer)
    what = f"the text encoded by {spec.key}"
    check_finite(states, model, lambda: run_encoder(model, rows, spec, layer), what=what)
    states = states.float()
    if weighted:
        weights = [[token.weight for token in chunk] for chunk in chunks]
        w = torch.tensor(weights, dtype=torch.float32, device=states.device).unsqueeze(-1)
        z, e = states[:-1], states[-1]
        states = torch.where(w == 1.0, z, (z - e) * w + e)
    if pooled is not None:
        pooled = pooled[:1].to("cpu", torch.float32)
    return EncodedText(states.reshape(1, -1, states.shape[-1]).cpu(), pooled)


def _ids_for(clip: Clip, spec: TextEncoderSpec) -> TextIds:
    """What gives ids in an encoder's vocabulary."""
    if not needs_tokenizer(spec.key):
        return clip_ids
    file = dict(clip.tokenizers).get(spec.key)
    if file is None:
        raise VocabularyError(missing_tokenizer(spec.key))
    ids = load_vocabulary(file, TOKENIZERS[spec.key].model)

    def checked(text: str) -> list[int]:
        found = ids(text)
        if any(number >= spec.vocab for number in found):
            raise VocabularyError(
                f"{file.path} gives the id {max(found)}, but {spec.key} knows {spec.vocab} words; {missing_tokenizer(spec.key)}"
            )
        return found

    return checked


def _lookup_for(spec: TextEncoderSpec, find_vectors: FindVectors | None) -> VectorLookup | None:
    """The lookup of one encoder, blind to vectors of another width than its own."""
    if find_vectors is None:
        return None

    def find(name: str) -> Tensor | None:
        vectors = find_vectors(name, spec)
        return vectors if vectors is not None and vectors.shape[-1] == spec.width else None

    return find
