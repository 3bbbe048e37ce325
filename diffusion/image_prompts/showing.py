"""Image prompts in a run: pictures become keys and values once, and each attention to text attends to them beside it.

A positive list sees the pictures, and a negative one what the adapter makes of no picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..levels.space import SamplingSpace
from ..names import Precision
from ..types import Image, ImagePrompt
from ..vision.encoding import preprocess


@dataclass(frozen=True, eq=False, slots=True)
class ShownPictures:
    """An image prompt for one run. keys, values: for each attention (2, T, C), of the pictures and of no picture.

    sigma_start, sigma_end: it holds at levels from start down to end, both included.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    weight: float
    sigma_start: float
    sigma_end: float


def show(prompt: ImagePrompt, space: SamplingSpace, precision: Precision | None = None) -> ShownPictures:
    """Returns an image prompt ready for a run, in the precision of its model; vision tower and adapter are needed only here."""
    spec = prompt.adapter.spec
    x = preprocess(Image(prompt.pixels), prompt.vision.spec)
    with prompt.vision.weights.use() as tower:
        like = next(tower.parameters())
        if spec.kind == "embedding":
            seen = tower(x.to(like)).image_embeds
            unseen = torch.zeros_like(seen)
        else:  # no picture is pixels of zero, once normalised
            both = torch.cat([x, torch.zeros_like(x)])
            seen, unseen = tower(both.to(like), output_hidden_states=True).hidden_states[-2].chunk(2)
    with replace(prompt.adapter.weights, precision=precision).use() as adapter:
        (keys, values), (no_keys, no_values) = adapter(seen), adapter(unseen)
    return ShownPictures(
        [torch.cat(pair) for pair in zip(keys, no_keys, strict=True)],
        [torch.cat(pair) for pair in zip(values, no_values, strict=True)],
        prompt.weight,
        space.percent_to_sigma(prompt.start),
        space.percent_to_sigma(prompt.end),
    )


@dataclass(eq=False, slots=True)
class PictureAttention:
    """What the attentions of one run's UNet are told before each pass. Made by `attend_to_pictures`."""

    shown: Sequence[ShownPictures]
    _rows: Tensor | None = field(default=None, init=False)
    _weights: list[Tensor | float] = field(default_factory=list, init=False)
    _queries: Tensor | None = field(default=None, init=False)

    def begin(self, negatives: Sequence[bool], sigma: Tensor) -> None:
        """Announces a pass: which parts of its batch are of negative lists, and the level, 0-d or (B,) for a part."""
        self._rows = torch.tensor(negatives, dtype=torch.long)
        self._weights = [_weight(each, sigma, len(negatives)) for each in self.shown]

    def remember(self, module: nn.Module, arguments: Any, queries: Tensor) -> None:
        """Keeps an attention's queries, (B, N, C), until it projects what it found in the text."""
        self._queries = queries

    def add(self, module: nn.Module, arguments: tuple[Tensor], *, number: int, heads: int) -> tuple[Tensor]:
        """Adds what an attention finds in the pictures to what it found in the text, (B, N, C)."""
        (found,) = arguments
        q, self._queries = self._queries, None
        assert q is not None, "an attention projects its queries first"
        assert self._rows is not None, "a pass is announced"
        for each, weight in zip(self.shown, self._weights, strict=True):
            if isinstance(weight, Tensor) or weight:
                rows = self._rows.to(q.device).repeat_interleave(len(q) // len(self._rows))
                k, v = (_heads(tensors[number][rows], heads) for tensors in (each.keys, each.values))
                out = functional.scaled_dot_product_attention(_heads(q, heads), k, v)
                scale = weight.to(q) if isinstance(weight, Tensor) else weight
                found = found + out.transpose(1, 2).flatten(2) * scale
        return (found,)


def attend_to_pictures(unet: Any, shown: Sequence[ShownPictures]) -> PictureAttention:
    """Changes a UNet of diffusers, a `shared_copy`, so that its attentions to text attend to pictures, too.

    Whatever computes the attention to the text stays as it is: its queries are read as it projects them, and what the
    pictures add is added before it projects its result.
    """
    state = PictureAttention(shown)
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    for number, name in enumerate(name for name in names if name.endswith("attn2")):
        attention = unet.get_submodule(name)
        attention.to_q.register_forward_hook(state.remember)
        add = partial(state.add, number=number, heads=attention.heads)
        attention.to_out[0].register_forward_pre_hook(add)
    return state


def _weight(shown: ShownPictures, sigma: Tensor, parts: int) -> Tensor | float:
    """(B, 1, 1) where levels differ."""
    within = (sigma >= shown.sigma_end) & (sigma <= shown.sigma_start)
    if sigma.ndim == 0 or within.all() or not within.any():
        return shown.weight if within.any() else 0.0
    return (within * shown.weight).repeat(parts).reshape(-1, 1, 1)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) as (B, heads, N, C / heads)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)
