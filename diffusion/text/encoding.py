"""From a prompt to the embedding that a denoising network attends to, by CLIP's text models.

The text models are transformers' and come from the caller, so this module knows neither files nor families by name.
Sources: Radford et al. 2021, arXiv:2103.00020 (CLIP); weights and layers as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..checkpoints.families import EncoderKey, TextEncoderSpec
from ..networks.faults import check_finite
from ..types import Clip, Condition, Conditioning
from .tokens import CHUNK_LENGTH, EOS, Chunk, TokenizedPrompt, VectorLookup, pack, tokenize


@dataclass(frozen=True, eq=False, slots=True)
class EncodedPrompt:
    """A prompt ready for sampling. `missing`: embeddings that it names and that were not found, without repeats."""

    conditioning: Conditioning
    missing: tuple[str, ...]


class EncodedText(NamedTuple):
    """What one text model makes of a prompt: token states (1, 77 * chunks, D), and a pooled (1, P) or None."""

    states: Tensor
    pooled: Tensor | None


FindVectors = Callable[[str, TextEncoderSpec], Tensor | None]
"""Gives the vectors (K, D) of an `embedding:name` for an encoder, or None."""


def encode_prompt(clip: Clip, prompt: str, *, find_vectors: FindVectors | None = None) -> EncodedPrompt:
    """Returns the prompt as one condition, float32 on the CPU: encoders side by side on features.

    Where encoders disagree on the number of tokens, the shorter one limits the length.
    """
    tokens = [_tokenize(prompt, spec, find_vectors) for spec in clip.spec.encoders]
    return _encode(clip, [each.chunks for each in tokens], [name for each in tokens for name in each.missing])


def encode_prompts(
    clip: Clip, prompts: Mapping[EncoderKey, str], *, find_vectors: FindVectors | None = None
) -> EncodedPrompt:
    """Returns a prompt of its own for each encoder as one condition, as `encode_prompt` does.

    The shorter prompts are filled up with empty chunks. As in ComfyUI 0.8.0 (behaviour).
    """
    tokens = [_tokenize(prompts[spec.key], spec, find_vectors) for spec in clip.spec.encoders]
    length = max(len(each.chunks) for each in tokens)
    chunks = [
        each.chunks + pack([], pad_id=spec.pad_id) * (length - len(each.chunks))
        for each, spec in zip(tokens, clip.spec.encoders, strict=True)
    ]
    return _encode(clip, chunks, [name for each in tokens for name in each.missing])


def _tokenize(prompt: str, spec: TextEncoderSpec, find_vectors: FindVectors | None) -> TokenizedPrompt:
    return tokenize(prompt, pad_id=spec.pad_id, find_vectors=_lookup_for(spec, find_vectors))


def _encode(clip: Clip, chunks: Sequence[Sequence[Chunk]], missing: Sequence[str]) -> EncodedPrompt:
    with clip.weights.use() as models:
        encoded = [
            encode_chunks(models[spec.key], each, spec, layer=clip.layer)
            for spec, each in zip(clip.spec.encoders, chunks, strict=True)
        ]
    length = min(text.states.shape[1] for text in encoded)
    pooled = [text.pooled for text in encoded if text.pooled is not None]
    condition = Condition(
        embedding=torch.cat([text.states[:, :length] for text in encoded], dim=-1),
        pooled=torch.cat(pooled, dim=-1) if pooled else None,
    )
    return EncodedPrompt(Conditioning((condition,)), tuple(dict.fromkeys(missing)))


@torch.no_grad()
def encode_chunks(
    model: nn.Module, chunks: Sequence[Chunk], spec: TextEncoderSpec, *, layer: int | None = None
) -> EncodedText:
    """Returns what one text model (transformers' CLIPTextModel, with or without projection) makes of the chunks.

    layer: the hidden layer to read, -1 the output of the last block; None is the family's own choice. A layer before
    the first stands for the final state. A token of weight w != 1 becomes (z - e) w + e, where e is what an empty
    prompt has at its place; the empty prompt is one more row of the same batch. The pooled vector is the state at the
    first end token of the first chunk, which weights do not change.
    """
    core = getattr(model, "text_model", model)  # a model without projection is itself the text model
    weighted = any(token.weight != 1.0 for chunk in chunks for token in chunk)
    rows = [*chunks, *pack([], pad_id=spec.pad_id)] if weighted else list(chunks)
    states, final = _run(core, rows, spec, layer)
    check_finite(states, model, lambda: _run(core, rows, spec, layer), what=f"the text encoded by {spec.key}")
    states = states.float()
    if weighted:
        weights = [[token.weight for token in chunk] for chunk in chunks]
        w = torch.tensor(weights, dtype=torch.float32, device=states.device).unsqueeze(-1)
        z, e = states[:-1], states[-1]
        states = torch.where(w == 1.0, z, (z - e) * w + e)
    pooled = None
    if final is not None:
        ends = [next(j for j, t in enumerate(row) if isinstance(t.value, int) and t.value == EOS) for row in rows]
        pooled = final[torch.arange(len(rows)), ends]
        if spec.pooled == "projected":
            pooled = model.get_submodule("text_projection")(pooled)
        pooled = pooled[:1].to("cpu", torch.float32)
    return EncodedText(states.reshape(1, -1, states.shape[-1]).cpu(), pooled)


def _run(core: Any, rows: Sequence[Chunk], spec: TextEncoderSpec, layer: int | None) -> tuple[Tensor, Tensor | None]:
    """The chosen hidden states (B, 77, D), and the final normed ones if the pooled vector needs them.

    Calls the model's own blocks one by one, because its forward takes no vectors in place of ids and runs blocks that
    nobody reads.
    """
    blocks, norm = core.encoder.layers, core.final_layer_norm
    wanted = spec.default_layer if layer is None else layer
    if wanted >= 0:
        raise ValueError(
            f"layer is {wanted}; expected -1 for the last layer of {spec.key}, -2 for the one before, and so on."
        )
    is_final = -wanted > len(blocks)
    depth = len(blocks) if is_final else len(blocks) + 1 + wanted
    pools = spec.pooled == "state" or (spec.pooled == "projected" and spec.projection_width is not None)

    x = core.embeddings(inputs_embeds=_embed(core.embeddings.token_embedding, rows))
    mask = torch.full((CHUNK_LENGTH, CHUNK_LENGTH), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device).triu(1)
    mask = mask.expand(len(rows), 1, -1, -1)
    chosen = x
    for i, block in enumerate(blocks[: len(blocks) if pools else depth], start=1):
        x = block(x, mask)
        if i == depth:
            chosen = norm(x) if is_final or spec.final_norm_on_hidden else x
    return chosen, norm(x) if pools else None


def _embed(table: nn.Embedding, rows: Sequence[Chunk]) -> Tensor:
    """Looks ids up and puts vectors in their places: (B, 77, D)."""
    vectors = {(i, j): t.value for i, row in enumerate(rows) for j, t in enumerate(row) if isinstance(t.value, Tensor)}
    ids = [[0 if (i, j) in vectors else t.value for j, t in enumerate(row)] for i, row in enumerate(rows)]
    embedded: Tensor = table(torch.tensor(ids, device=table.weight.device))
    for (i, j), vector in vectors.items():
        embedded[i, j] = vector.to(embedded)
    return embedded


def _lookup_for(spec: TextEncoderSpec, find_vectors: FindVectors | None) -> VectorLookup | None:
    """The lookup of one encoder, blind to vectors of another width than its own."""
    if find_vectors is None:
        return None

    def find(name: str) -> Tensor | None:
        vectors = find_vectors(name, spec)
        return vectors if vectors is not None and vectors.shape[-1] == spec.width else None

    return find
