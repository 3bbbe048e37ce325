"""Work that many passes through a UNet have in common, done once: for a run, for a step, or for a batch.

- Once for a run: the keys and values of the text, which attention to it makes from the same context at every step, and the
  embedding of pooled text and sizes.
- Once for a step: the embedding of the noise level and what each block makes of it, as one row for the whole batch.
- Once for a batch: what the network does before it first looks at the text. Prompt and negative prompt are asked about the same
  latent, so up to there their parts of the batch are equal.

Results agree with the plain network's but for the last bits, which the composition of a batch moves: so this is for `auto`
precision alone.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor
from torch.nn import functional

from .unets import attentions_of


class SharedWork:
    """What the passes of one run through one UNet share. Made by `share_work`; `begin` announces each pass."""

    def __init__(self) -> None:
        self.repeats = 1
        self._converted: dict[tuple[int, torch.dtype], tuple[Tensor, Tensor]] = {}

    def begin(self, repeats: int) -> None:
        """Announces a pass. repeats: how often the same latents, at one noise level, follow each other in its batch."""
        self.repeats = repeats

    def converted(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns a tensor of the run's in another number format: the same object each time, by which work is recognised."""
        key = (id(tensor), dtype)
        if key not in self._converted:
            self._converted[key] = (tensor, tensor.to(dtype))  # the original is kept, so that its id stays its own
        return self._converted[key][1]


def share_work(unet: Any) -> SharedWork:
    """Changes a UNet of diffusers, a `shared_copy`, so that its passes share what is equal in them."""
    shared = SharedWork()
    _embed_level_once(unet)
    _once_a_batch(unet.conv_in, shared)
    told = (unet.config.addition_embed_type, unet.config.class_embed_type, unet.config.num_class_embeds)
    if told == (None, None, None):
        _once_a_batch(unet.down_blocks[0].resnets[0], shared)
        for attention in attentions_of(unet.down_blocks[0])[:1]:
            _once_a_batch(attention.transformer_blocks[0].attn1, shared)
    elif unet.config.addition_embed_type is not None:
        _embed_additions_once(unet)
    for module in unet.modules():
        plain = type(getattr(module, "processor", None)) is AttnProcessor2_0
        if plain and module.is_cross_attention and not module.norm_cross and module.norm_q is None:
            module.set_processor(_TextAttention())
    return shared


class _TextAttention:
    """An attention processor of diffusers that makes keys and values of each context once.

    A context is known by its identity: whoever calls the network hands it the same tensor again.
    """

    def __init__(self) -> None:
        self._made: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *rest: Any, **options: Any
    ) -> Tensor:
        """Returns (B, N, C) for hidden_states (B, N, C) and a context (B, M, W)."""
        context = encoder_hidden_states
        if id(context) not in self._made:
            keys, values = attn.to_k(context), attn.to_v(context)
            self._made[id(context)] = (context, _heads(keys, attn.heads), _heads(values, attn.heads))
        _, k, v = self._made[id(context)]
        out = functional.scaled_dot_product_attention(_heads(attn.to_q(hidden_states), attn.heads), k, v)
        projected: Tensor = attn.to_out[0](out.transpose(1, 2).flatten(2))
        return projected


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) as (B, heads, N, C / heads)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def _embed_level_once(unet: Any) -> None:
    """A level that all of a batch have in common is embedded as one row, which the network's sums spread over the batch."""
    embed = unet.get_time_embed

    def embed_level(sample: Tensor, timestep: Tensor) -> Tensor:
        is_common = timestep.ndim == 1 and timestep.stride(0) == 0  # a single value, expanded
        row: Tensor = embed(sample[:1], timestep[:1]) if is_common else embed(sample, timestep)
        return row

    unet.get_time_embed = embed_level


def _embed_additions_once(unet: Any) -> None:
    """Pooled text and sizes, known by the identity of the former, are embedded once."""
    embed = unet.get_aug_embed
    made: dict[int, tuple[Tensor, Tensor]] = {}

    def embed_additions(*, added_cond_kwargs: dict[str, Tensor], **rest: Any) -> Tensor:
        pooled = added_cond_kwargs["text_embeds"]
        if id(pooled) not in made:
            made[id(pooled)] = (pooled, embed(added_cond_kwargs=added_cond_kwargs, **rest))
        return made[id(pooled)][1]

    unet.get_aug_embed = embed_additions


def _once_a_batch(module: Any, shared: SharedWork) -> None:
    """Makes a module compute one part of a batch of equal parts, and repeat the result."""
    forward = module.forward

    def forward_once(x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        if shared.repeats == 1:
            result: Tensor = forward(x, *arguments, **options)
            return result
        items = len(x) // shared.repeats
        arguments = tuple(each[:items] if isinstance(each, Tensor) else each for each in arguments)
        part: Tensor = forward(x[:items], *arguments, **options)
        return part.repeat(shared.repeats, *[1] * (part.ndim - 1))

    module.forward = forward_once
