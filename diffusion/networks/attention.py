"""Attention in a fixed order of operations, for results that are compared to the last bit.

These are attention processors for diffusers' networks, not networks. They are slower than torch's fused kernels and
agree with them to about 1e-6. Order of operations: as in ComfyUI 0.8.0 on a CPU (behaviour).
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional

QUERY_CHUNK = 4096  # rows of queries whose scores are held at once


class ExactUNetAttention:
    """Attention of a UNet's transformer blocks: softmax(q k / sqrt(D)) v by baddbmm, softmax and bmm."""

    def __init__(self, query_chunk: int = QUERY_CHUNK) -> None:
        self.query_chunk = query_chunk

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: object
    ) -> Tensor:
        """Returns (B, N, C) for hidden_states (B, N, C) and a context (B, M, W), by default the hidden states."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        batch, n, width = q.shape
        m, heads = k.shape[1], attn.heads
        d = width // heads
        q = q.view(batch, n, heads, d).permute(0, 2, 1, 3).reshape(batch * heads, n, d)
        k = k.view(batch, m, heads, d).permute(0, 2, 3, 1).reshape(batch * heads, d, m)
        v = v.view(batch, m, heads, d).permute(0, 2, 1, 3).reshape(batch * heads, m, d)
        unused = torch.empty(1, 1, 1, dtype=q.dtype, device=q.device)  # beta = 0: never read
        chunks = []
        for rows in q.split(self.query_chunk, dim=1):
            scores = torch.baddbmm(unused, rows, k, alpha=d**-0.5, beta=0)
            chunks.append(torch.bmm(scores.softmax(dim=-1), v))
        out = torch.cat(chunks, dim=1) if len(chunks) > 1 else chunks[0]
        out = out.view(batch, heads, n, d).permute(0, 2, 1, 3).reshape(batch, n, width)
        projected: Tensor = attn.to_out[0](out)
        return projected


class ExactVaeAttention:
    """Self-attention in an autoencoder: one head, projections as 1x1 convolutions."""

    def __call__(self, attn: Any, hidden_states: Tensor, temb: Tensor | None = None, **_: object) -> Tensor:
        """Returns (B, C, h, w) for hidden_states (B, C, h, w), with the residual added. `temb` is always None here."""
        batch, channels, height, width = hidden_states.shape
        x = attn.group_norm(hidden_states)
        q = _conv(attn.to_q, x).flatten(2).transpose(1, 2)  # (B, hw, C)
        k = _conv(attn.to_k, x).flatten(2)  # (B, C, hw)
        v = _conv(attn.to_v, x).flatten(2)
        scores = torch.bmm(q, k) * channels**-0.5
        out = torch.bmm(v, scores.softmax(dim=2).permute(0, 2, 1))
        return hidden_states + _conv(attn.to_out[0], out.reshape(batch, channels, height, width))


def use_exact_vae_attention(network: nn.Module) -> None:
    """Gives every attention of an autoencoder of diffusers the exact order of operations."""
    for module in network.modules():
        if isinstance(module, Attention):
            module.set_processor(ExactVaeAttention())


def _conv(linear: Any, x: Tensor) -> Tensor:
    return functional.conv2d(x, linear.weight[:, :, None, None], linear.bias)
