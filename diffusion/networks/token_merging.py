"""Token merging: at a UNet's full size, places that look alike ask as one what to attend to.

Bolya and Hoffman 2023, arXiv:2303.17604. Of each 2x2 places one is kept, and the others are merged into the kept one that is
most like them, the most alike first. As in ComfyUI 0.8.0 (behaviour) queries alone are merged, and compared. Which place is
kept is drawn from a fixed seed, so that a run repeats itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .unets import attentions_of

STRIDE = 2  # of each STRIDE x STRIDE places one is kept
SEED = 0


def merge_tokens(unet: Any, ratio: float) -> None:
    """Changes a UNet of diffusers so that a part of its queries, `ratio` of all, is merged at full size."""
    size: list[int] = [0, 0]

    def remember(_: Any, __: Any, out: Tensor) -> None:
        size[:] = out.shape[-2:]

    unet.conv_in.register_forward_hook(remember)
    for block in (unet.down_blocks[0], unet.up_blocks[-1]):
        for attention in attentions_of(block):
            for transformer in attention.transformer_blocks:
                if transformer.only_cross_attention:
                    continue
                transformer.attn1.set_processor(_MergedQueries(ratio, size))


class Merging(NamedTuple):
    """How places, (B, N, C), become fewer, and as many again."""

    merge: Callable[[Tensor], Tensor]
    unmerge: Callable[[Tensor], Tensor]


def match_tokens(x: Tensor, *, height: int, width: int, ratio: float) -> Merging:
    """Returns how `ratio` of the places x, (B, height * width, C) in rows, are merged; at most those that are not kept."""
    batch, n, _ = x.shape
    kept, others = (each.to(x.device) for each in _parted(height, width))
    count = min(len(others), int(n * ratio))
    unit = functional.normalize(x, dim=-1)
    likeness, nearest = (unit[:, others] @ unit[:, kept].transpose(1, 2)).max(dim=-1)  # (B, others)
    order = likeness.argsort(dim=-1, descending=True)
    merged, alone = order[:, :count], order[:, count:]
    into = nearest.gather(1, merged)  # (B, count), which of `kept`

    def merge(values: Tensor) -> Tensor:
        source, target = values[:, others], values[:, kept]
        left, moved = (_take(source, index) for index in (alone, merged))
        target = target.scatter_reduce(1, _wide(into, values), moved, "mean")
        return torch.cat([left, target], dim=1)

    def unmerge(values: Tensor) -> Tensor:
        left, target = values[:, : alone.shape[1]], values[:, alone.shape[1] :]
        whole = values.new_empty(batch, n, values.shape[-1])
        whole[:, kept] = target
        whole.scatter_(1, _wide(others[alone], values), left)
        whole.scatter_(1, _wide(others[merged], values), _take(target, into))
        return whole

    return Merging(merge, unmerge)


class _MergedQueries:
    """An attention processor of diffusers in which like queries are asked as one."""

    def __init__(self, ratio: float, size: list[int]) -> None:
        """size: height and width of the latent, filled in when it is known."""
        self._ratio = ratio
        self._size = size

    def __call__(self, attn: Any, hidden_states: Tensor, *rest: Any, **options: Any) -> Tensor:
        q, k, v = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        height, width = self._size
        merging = None
        if q.shape[1] == height * width and min(height, width) >= STRIDE:
            merging = match_tokens(q, height=height, width=width, ratio=self._ratio)
            q = merging.merge(q)
        q, k, v = (each.view(len(each), each.shape[1], attn.heads, -1).transpose(1, 2) for each in (q, k, v))
        out = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        if merging is not None:
            out = merging.unmerge(out)
        projected: Tensor = attn.to_out[0](out)
        return projected


def _parted(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Returns the numbers of the places that are kept, one of each 2x2, and those of all others."""
    rows, columns = height // STRIDE, width // STRIDE
    draw = torch.Generator().manual_seed(SEED)
    choice = torch.randint(STRIDE**2, (rows, columns), generator=draw)
    y = STRIDE * torch.arange(rows)[:, None] + choice // STRIDE
    x = STRIDE * torch.arange(columns) + choice % STRIDE
    is_kept = torch.zeros(height * width, dtype=torch.bool)
    is_kept[(y * width + x).flatten()] = True
    return is_kept.nonzero().flatten(), (~is_kept).nonzero().flatten()


def _wide(index: Tensor, like: Tensor) -> Tensor:
    return index[..., None].expand(-1, -1, like.shape[-1])


def _take(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, _wide(index, values))
