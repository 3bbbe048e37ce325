"""Runs text encoders, a kind a function: rows of tokens in, hidden states out.

The networks are transformers' and diffusers' and come from the caller. Their own blocks are called one by one, because their
forward takes no vectors in place of ids and runs blocks that nobody reads. Sources: Radford et al. 2021, arXiv:2103.00020
(CLIP); Raffel et al. 2020, arXiv:1910.10683 (T5); which layer is read as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..families.text_specs import BertSpec, ClassSpec, ClipTextSpec, DecoderSpec, T5Spec, TextEncoderSpec, TextKind
from ..networks.stored import device_of
from .tokens import Chunk


class HiddenStates(NamedTuple):
    """States (B, T, D) of the chosen layer, and a pooled vector of each row (B, P), or None if the encoder has none."""

    chosen: Tensor
    pooled: Tensor | None


def run_encoder(network: nn.Module, rows: Sequence[Chunk], spec: TextEncoderSpec, layer: int | None) -> HiddenStates:
    """Returns what a text encoder makes of rows of tokens of one length.

    layer: -1 the output of the last block; None is the family's own choice. A layer before the first stands for the final
    state.
    """
    wanted = spec.default_layer if layer is None else layer
    if wanted >= 0:
        raise ValueError(
            f"layer is {wanted}; expected -1 for the last layer of {spec.key}, -2 for the one before, and so on."
        )
    return _RUNS[spec.kind](network, rows, spec, wanted)


def _run_clip(network: Any, rows: Sequence[Chunk], spec: ClipTextSpec, wanted: int) -> HiddenStates:
    core = getattr(network, "text_model", network)  # a model without projection is itself the text model
    blocks, norm = core.encoder.layers, core.final_layer_norm
    is_final, depth = _depth(blocks, wanted)
    pools = spec.pooled == "state" or (spec.pooled == "projected" and spec.projection_width is not None)
    x = core.embeddings(inputs_embeds=_embed(core.embeddings.token_embedding, rows))
    length = x.shape[1]
    mask = torch.full((length, length), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device).triu(1)
    mask = mask.expand(len(rows), 1, -1, -1)
    chosen = x
    for i, block in enumerate(blocks[: len(blocks) if pools else depth], start=1):
        x = block(x, mask)
        if i == depth:
            chosen = norm(x) if is_final or spec.final_norm_on_hidden else x
    if not pools:
        return HiddenStates(chosen, None)
    end = spec.framing.end
    ends = [
        next(j for j, token in enumerate(row) if isinstance(token.value, int) and token.value == end) for row in rows
    ]
    pooled = norm(x)[torch.arange(len(rows)), ends]
    return HiddenStates(chosen, network.text_projection(pooled) if spec.pooled == "projected" else pooled)


def _run_t5(network: Any, rows: Sequence[Chunk], spec: T5Spec, wanted: int) -> HiddenStates:
    """Padding is attended to like any other token, as the families that use T5 were trained."""
    stack = network.encoder
    _, depth = _depth(stack.block, wanted)
    x, bias = _embed(network.shared, rows), None
    for block in stack.block[:depth]:
        x, bias, _ = block(x, None, bias)  # the first block makes the position bias for all
    return HiddenStates(stack.final_layer_norm(x), None)


def _run_bert(network: Any, rows: Sequence[Chunk], spec: BertSpec, wanted: int) -> HiddenStates:
    core = network.model
    _, depth = _depth(core.layers, wanted)
    places = torch.arange(len(rows[0]), device=device_of(core.embed_positions))
    x = _embed(core.embed_tokens, rows) + core.embed_positions(places[None])
    for layer in core.layers[:depth]:
        x = layer(x, None, None)[0]
    return HiddenStates(core.layer_norm(x), None)


def _run_classes(network: Any, rows: Sequence[Chunk], spec: ClassSpec, wanted: int) -> HiddenStates:
    return HiddenStates(_embed(network["embedding"], rows), None)


def _run_decoder(network: Any, rows: Sequence[Chunk], spec: DecoderSpec, wanted: int) -> HiddenStates:
    """Padding at either end of a row is not attended to. The layers are the family's, whichever is asked for."""
    device = device_of(network.embed_tokens)
    ids = torch.tensor([[token.value for token in row] for row in rows], device=device)
    real = ids != spec.dialogue.pad
    inside = real.cumsum(dim=1).bool() & real.flip(1).cumsum(dim=1).flip(1).bool()
    states = network(input_ids=ids, attention_mask=inside.long(), output_hidden_states=True).hidden_states
    return HiddenStates(torch.cat([states[layer] for layer in spec.read], dim=-1), None)


_RUNS: Mapping[TextKind, Callable[[Any, Sequence[Chunk], Any, int], HiddenStates]] = {
    "clip": _run_clip,
    "t5": _run_t5,
    "bert": _run_bert,
    "classes": _run_classes,
    "decoder": _run_decoder,
}


def _depth(blocks: Any, wanted: int) -> tuple[bool, int]:
    """Returns whether a layer is none of the blocks' and so stands for the final state, and after how many blocks it is."""
    is_final = -wanted > len(blocks)
    return is_final, len(blocks) if is_final else len(blocks) + 1 + wanted


def _embed(table: nn.Embedding, rows: Sequence[Chunk]) -> Tensor:
    """Looks ids up and puts vectors in their places: (B, T, D)."""
    vectors = {(i, j): t.value for i, row in enumerate(rows) for j, t in enumerate(row) if isinstance(t.value, Tensor)}
    ids = [[0 if (i, j) in vectors else t.value for j, t in enumerate(row)] for i, row in enumerate(rows)]
    embedded: Tensor = table(torch.tensor(ids, device=device_of(table)))
    for (i, j), vector in vectors.items():
        embedded[i, j] = vector.to(embedded)
    return embedded
