"""Changes to how a network computes, made to a copy of it that shares all weights: the network itself is never changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..sampling.options import FreeU
from .unets import attentions_of

LEAST_SPREAD = 1e-12  # instead of 0, where the backbone is the same everywhere


def shared_copy(network: Any) -> Any:
    """Returns a copy of a network's modules around the very same weights, so that hooks on it are its own."""
    weights = chain(network.parameters(), network.buffers())
    return deepcopy(network, {id(weight): weight for weight in weights})


def add_free_u(unet: Any, settings: Iterable[FreeU]) -> None:
    """Changes a UNet of diffusers so that each of its decoder's blocks sees its inputs as FreeU wants."""
    channels = unet.config.block_out_channels[0]
    before = unet.config.block_out_channels[-1]
    for block in unet.up_blocks:
        for resnet in block.resnets:
            for setting in settings:
                resnet.register_forward_pre_hook(_free_u_hook(setting, channels, before))
            before = resnet.out_channels


def free_u_backbone(h: Tensor, setting: FreeU, strength: float) -> Tensor:
    """Returns backbone features, (B, C, h, w), with the first half of their channels strengthened."""
    half = h.shape[1] // 2
    factor: Tensor | float = strength
    if setting.adaptive:
        mean = h.mean(dim=1, keepdim=True)
        low, high = mean.amin(dim=(2, 3), keepdim=True), mean.amax(dim=(2, 3), keepdim=True)
        factor = (strength - 1.0) * ((mean - low) / (high - low).clamp(min=LEAST_SPREAD)) + 1.0
    return torch.cat([h[:, :half] * factor, h[:, half:]], dim=1)


def free_u_skip(skip: Tensor, scale: float) -> Tensor:
    """Returns a skip connection's features, (B, C, h, w), with their lowest frequencies scaled."""
    frequencies = torch.fft.fftshift(torch.fft.fftn(skip.float(), dim=(-2, -1)), dim=(-2, -1))
    rows, columns = (slice(side // 2 - 1, side // 2 + 1) for side in skip.shape[-2:])
    frequencies[..., rows, columns] *= scale
    filtered: Tensor = torch.fft.ifftn(torch.fft.ifftshift(frequencies, dim=(-2, -1)), dim=(-2, -1)).real
    return filtered.to(skip.dtype)


def record_self_attention(unet: Any, on_weights: Callable[[Tensor], None]) -> None:
    """Changes a UNet of diffusers so that it tells what the middle of the network attends to.

    on_weights: is given softmax(q k / sqrt(D)) of the first transformer block's self-attention, (B, heads, N, N).
    """
    attentions = attentions_of(unet.mid_block)
    if not attentions:
        raise ValueError("self-attention guidance needs a UNet with attention in its middle, and this one has none.")
    attention = attentions[0].transformer_blocks[0].attn1
    attention.set_processor(_RecordingAttention(attention.processor, on_weights))


class _RecordingAttention:
    """An attention processor of diffusers that answers as another one does, and tells the weights."""

    def __init__(self, processor: Any, on_weights: Callable[[Tensor], None]) -> None:
        self._processor = processor
        self._on_weights = on_weights

    def __call__(self, attn: Any, hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
        batch, n, _ = hidden_states.shape
        q, k = (project(hidden_states).view(batch, n, attn.heads, -1) for project in (attn.to_q, attn.to_k))
        scores = torch.einsum("bnhd,bmhd->bhnm", q.float(), k.float()) * q.shape[-1] ** -0.5
        self._on_weights(scores.softmax(dim=-1))
        return self._processor(attn, hidden_states, *arguments, **options)


def perturb_self_attention(unet: Any) -> None:
    """Changes a UNet of diffusers so that in its middle each place attends to itself alone: arXiv:2403.17377."""
    attentions = attentions_of(unet.mid_block)
    if not attentions:
        raise ValueError(
            "perturbed-attention guidance needs a UNet with attention in its middle, and this one has none."
        )
    for attention in attentions:
        for block in attention.transformer_blocks:
            block.attn1.set_processor(_SelfAlone())


class _SelfAlone:
    """An attention processor of diffusers that takes the values as they are."""

    def __call__(self, attn: Any, hidden_states: Tensor, *arguments: Any, **options: Any) -> Tensor:
        projected: Tensor = attn.to_out[0](attn.to_v(hidden_states))
        return projected


def skip_blocks(transformer: Any, *, double: Iterable[int], single: Iterable[int]) -> None:
    """Changes a transformer of diffusers so that it leaves out some of its blocks, named by number; others are ignored.

    double: of those with streams of their own for text and picture; single: of those with one for both.
    """
    for name, numbers in (("transformer_blocks", double), ("single_transformer_blocks", single)):
        blocks = getattr(transformer, name, ())
        for number in numbers:
            if number < len(blocks):
                blocks[number].forward = _pass_on


def _pass_on(hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any) -> Any:
    """What a block without an effect gives: as many streams as it is given."""
    return hidden_states if encoder_hidden_states is None else (encoder_hidden_states, hidden_states)


def _free_u_hook(setting: FreeU, channels: int, backbone: int) -> Callable[[Any, Any], Any]:
    """backbone: how many of the channels that a block is given are the backbone's; the skip connection's follow them."""
    strengths = {4 * channels: (setting.b1, setting.s1), 2 * channels: (setting.b2, setting.s2)}

    def hook(resnet: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if backbone not in strengths:
            return None
        x, *rest = arguments
        strength, scale = strengths[backbone]
        h = free_u_backbone(x[:, :backbone], setting, strength)
        return torch.cat([h, free_u_skip(x[:, backbone:], scale)], dim=1), *rest

    return hook
