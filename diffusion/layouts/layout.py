"""Every tensor of a network by name and shape, worked out from its spec alone: no torch, no file, no network.

Names are those of diffusers' UNet2DConditionModel; text encoders are in `text_layout`. What is made for a network (an adapter,
a merge) is compared with this before a weight is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from ..families.specs import UNetSpec
from .structure import Shapes


@cache
def unet_layout(spec: UNetSpec) -> Shapes:
    """Returns the shape of each tensor of diffusers' UNet of this structure."""
    return dict(_unet(spec))


def modules_of(shapes: Shapes) -> list[str]:
    """Returns the modules that hold these tensors, each once, in order."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in shapes))


Entry = tuple[str, tuple[int, ...]]
"""The name of a tensor, and its shape."""


def _unet(spec: UNetSpec) -> Iterator[Entry]:
    first, time = spec.widths[0], 4 * spec.widths[0]
    yield from conv("conv_in", first, spec.in_channels)
    yield from dense("time_embedding.linear_1", time, first)
    yield from dense("time_embedding.linear_2", time, time)
    if spec.vector_width:
        vector = "add_embedding" if spec.pooled_width else "class_embedding"
        yield from dense(f"{vector}.linear_1", time, spec.vector_width)
        yield from dense(f"{vector}.linear_2", time, time)
    if spec.noise_levels:
        yield "class_embedding.weight", (spec.noise_levels, time)
    text_alone = spec.text_alone or (False,) * len(spec.widths)
    width, skips = first, [first]
    for x, (out, depths) in enumerate(zip(spec.widths, spec.depths_in, strict=True)):
        for i, depth in enumerate(depths):
            yield from res(f"down_blocks.{x}.resnets.{i}", out, width, time)
            yield from _attention(f"down_blocks.{x}.attentions.{i}", out, depth, spec, text_alone=text_alone[x])
            width = out
            skips.append(width)
        if x < len(spec.widths) - 1:
            yield from conv(f"down_blocks.{x}.downsamplers.0.conv", width, width)
            skips.append(width)
    if spec.depth_middle is not None:
        yield from res("mid_block.resnets.0", width, width, time)
        yield from _attention("mid_block.attentions.0", width, spec.depth_middle, spec)
        if spec.depth_middle:
            yield from res("mid_block.resnets.1", width, width, time)
    for y, (out, depths) in enumerate(zip(reversed(spec.widths), spec.depths_out, strict=True)):
        for i, depth in enumerate(depths):
            yield from res(f"up_blocks.{y}.resnets.{i}", out, width + skips.pop(), time)
            yield from _attention(f"up_blocks.{y}.attentions.{i}", out, depth, spec, text_alone=text_alone[-1 - y])
            width = out
        if y < len(spec.widths) - 1:
            yield from conv(f"up_blocks.{y}.upsamplers.0.conv", width, width)
    yield from norm("conv_norm_out", width)
    yield from conv("conv_out", spec.out_channels, width)


def res(name: str, out: int, into: int, time: int, *, scale_shift: bool = False) -> Iterator[Entry]:
    """Yields the tensors of a res block. scale_shift: the time scales features, too."""
    yield from norm(f"{name}.norm1", into)
    yield from conv(f"{name}.conv1", out, into)
    yield from dense(f"{name}.time_emb_proj", 2 * out if scale_shift else out, time)
    yield from norm(f"{name}.norm2", out)
    yield from conv(f"{name}.conv2", out, out)
    if into != out:
        yield from conv(f"{name}.conv_shortcut", out, into, kernel=1)


def _attention(name: str, width: int, depth: int, spec: UNetSpec, *, text_alone: bool = False) -> Iterator[Entry]:
    if not depth:
        return
    kernel = None if spec.linear_projection else 1
    yield from norm(f"{name}.norm", width)
    yield from conv(f"{name}.proj_in", width, width, kernel=kernel)
    for n in range(depth):
        block = f"{name}.transformer_blocks.{n}"
        for attention, context in (
            ("attn1", spec.context_width if text_alone else width),
            ("attn2", spec.context_width),
        ):
            yield f"{block}.{attention}.to_q.weight", (width, width)
            yield f"{block}.{attention}.to_k.weight", (width, context)
            yield f"{block}.{attention}.to_v.weight", (width, context)
            yield from dense(f"{block}.{attention}.to_out.0", width, width)
        yield from dense(f"{block}.ff.net.0.proj", 8 * width, width)  # GEGLU: values and gates
        yield from dense(f"{block}.ff.net.2", width, 4 * width)
        for i in (1, 2, 3):
            yield from norm(f"{block}.norm{i}", width)
    yield from conv(f"{name}.proj_out", width, width, kernel=kernel)


def conv(name: str, out: int, into: int, *, kernel: int | None = 3) -> Iterator[Entry]:
    """Yields the tensors of a convolution, or of a matrix where the kernel is None."""
    yield f"{name}.weight", (out, into) if kernel is None else (out, into, kernel, kernel)
    yield f"{name}.bias", (out,)


def dense(name: str, out: int, into: int) -> Iterator[Entry]:
    """Yields a matrix and its bias."""
    yield from conv(name, out, into, kernel=None)


def norm(name: str, width: int) -> Iterator[Entry]:
    """Yields the weight and the bias of a norm."""
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
