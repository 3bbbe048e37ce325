"""Every parameter of a diffusion transformer by name and shape, worked out from its spec alone; see `layout`.

Names are those of diffusers' SD3Transformer2DModel, FluxTransformer2DModel and Flux2Transformer2DModel.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from ..families.dit_specs import PATCH, Flux2Spec, FluxSpec, MMDiTSpec
from .structure import Shapes

Entry = tuple[str, tuple[int, ...]]

SINUSOID = 256  # numbers for a time, or for a strength of guidance
GROWTH = 4  # how many times as wide a feed-forward is inside


@cache
def mmdit_layout(spec: MMDiTSpec) -> Shapes:
    """Returns the shape of each parameter of SD3's transformer; its table of positions is none, it was not trained."""
    return dict(_mmdit(spec))


def mmdit_tables(spec: MMDiTSpec) -> Shapes:
    """Returns the shape of SD3's table of positions."""
    return {"pos_embed.pos_embed": (1, spec.positions**2, spec.width)}


@cache
def flux_layout(spec: FluxSpec) -> Shapes:
    """Returns the shape of each parameter of FLUX.1's transformer."""
    return dict(_flux(spec))


@cache
def flux2_layout(spec: Flux2Spec) -> Shapes:
    """Returns the shape of each parameter of FLUX.2's transformer."""
    return dict(_flux2(spec))


def _mmdit(spec: MMDiTSpec) -> Iterator[Entry]:
    width = spec.width
    head = width // spec.heads if spec.query_norm else None
    yield "pos_embed.proj.weight", (width, spec.in_channels, PATCH, PATCH)
    yield "pos_embed.proj.bias", (width,)
    yield from _embedder("time_text_embed.timestep_embedder", width, SINUSOID)
    yield from _embedder("time_text_embed.text_embedder", width, spec.pooled_width)
    yield from _dense("context_embedder", width, spec.context_width)
    for n in range(spec.depth):
        block, last, dual = f"transformer_blocks.{n}", n == spec.depth - 1, n in spec.dual_attention
        yield from _dense(f"{block}.norm1.linear", (9 if dual else 6) * width, width)
        yield from _dense(f"{block}.norm1_context.linear", (2 if last else 6) * width, width)
        yield from _joint(f"{block}.attn", width, head, last=last)
        if dual:
            yield from _attention(f"{block}.attn2", width, head)
            yield from _dense(f"{block}.attn2.to_out.0", width, width)
        yield from _feed_forward(f"{block}.ff", width)
        if not last:  # what becomes of the text then is asked by nobody
            yield from _feed_forward(f"{block}.ff_context", width)
    yield from _dense("norm_out.linear", 2 * width, width)
    yield from _dense("proj_out", PATCH**2 * spec.out_channels, width)


def _flux(spec: FluxSpec) -> Iterator[Entry]:
    width, head = spec.width, spec.width // spec.heads
    yield from _embedder("time_text_embed.timestep_embedder", width, SINUSOID)
    if spec.guidance:
        yield from _embedder("time_text_embed.guidance_embedder", width, SINUSOID)
    yield from _embedder("time_text_embed.text_embedder", width, spec.pooled_width)
    yield from _dense("context_embedder", width, spec.context_width)
    yield from _dense("x_embedder", width, PATCH**2 * spec.in_channels)
    for n in range(spec.double_blocks):
        block = f"transformer_blocks.{n}"
        yield from _dense(f"{block}.norm1.linear", 6 * width, width)
        yield from _dense(f"{block}.norm1_context.linear", 6 * width, width)
        yield from _joint(f"{block}.attn", width, head)
        yield from _feed_forward(f"{block}.ff", width)
        yield from _feed_forward(f"{block}.ff_context", width)
    for n in range(spec.single_blocks):
        block = f"single_transformer_blocks.{n}"
        yield from _dense(f"{block}.norm.linear", 3 * width, width)
        yield from _attention(f"{block}.attn", width, head)
        yield from _dense(f"{block}.proj_mlp", GROWTH * width, width)
        yield from _dense(f"{block}.proj_out", width, (1 + GROWTH) * width)
    yield from _dense("norm_out.linear", 2 * width, width)
    yield from _dense("proj_out", PATCH**2 * spec.out_channels, width)


def _flux2(spec: Flux2Spec) -> Iterator[Entry]:
    width, head = spec.width, spec.width // spec.heads
    embedders = ("timestep_embedder", "guidance_embedder") if spec.guidance else ("timestep_embedder",)
    for name in embedders:
        yield from _embedder(f"time_guidance_embed.{name}", width, spec.time_width, bias=False)
    for name, sets in (("double_stream_modulation_img", 2), ("double_stream_modulation_txt", 2)):
        yield f"{name}.linear.weight", (3 * sets * width, width)
    yield "single_stream_modulation.linear.weight", (3 * width, width)
    yield "x_embedder.weight", (width, spec.in_channels)
    yield "context_embedder.weight", (width, spec.context_width)
    for n in range(spec.double_blocks):
        block = f"transformer_blocks.{n}"
        yield from _joint(f"{block}.attn", width, head, bias=False)
        for name in ("ff", "ff_context"):
            yield f"{block}.{name}.linear_in.weight", (2 * spec.mlp_width, width)  # gates and values
            yield f"{block}.{name}.linear_out.weight", (width, spec.mlp_width)
    for n in range(spec.single_blocks):
        block = f"single_transformer_blocks.{n}.attn"
        yield f"{block}.to_qkv_mlp_proj.weight", (3 * width + 2 * spec.mlp_width, width)
        yield f"{block}.norm_q.weight", (head,)
        yield f"{block}.norm_k.weight", (head,)
        yield f"{block}.to_out.weight", (width, width + spec.mlp_width)
    yield "norm_out.linear.weight", (2 * width, width)
    yield "proj_out.weight", (spec.out_channels, width)


def _joint(name: str, width: int, head: int | None, *, last: bool = False, bias: bool = True) -> Iterator[Entry]:
    """Attention of two streams; head: the width of one, if queries and keys are normalised."""
    yield from _attention(name, width, head, bias=bias)
    for projection in ("add_q_proj", "add_k_proj", "add_v_proj"):
        yield from _dense(f"{name}.{projection}", width, width, bias=bias)
    yield from _dense(f"{name}.to_out.0", width, width, bias=bias)
    if not last:
        yield from _dense(f"{name}.to_add_out", width, width, bias=bias)
    if head is not None:
        yield f"{name}.norm_added_q.weight", (head,)
        yield f"{name}.norm_added_k.weight", (head,)


def _attention(name: str, width: int, head: int | None, *, bias: bool = True) -> Iterator[Entry]:
    for projection in ("to_q", "to_k", "to_v"):
        yield from _dense(f"{name}.{projection}", width, width, bias=bias)
    if head is not None:
        yield f"{name}.norm_q.weight", (head,)
        yield f"{name}.norm_k.weight", (head,)


def _feed_forward(name: str, width: int) -> Iterator[Entry]:
    yield from _dense(f"{name}.net.0.proj", GROWTH * width, width)
    yield from _dense(f"{name}.net.2", width, GROWTH * width)


def _embedder(name: str, width: int, into: int, *, bias: bool = True) -> Iterator[Entry]:
    yield from _dense(f"{name}.linear_1", width, into, bias=bias)
    yield from _dense(f"{name}.linear_2", width, width, bias=bias)


def _dense(name: str, out: int, into: int, *, bias: bool = True) -> Iterator[Entry]:
    yield f"{name}.weight", (out, into)
    if bias:
        yield f"{name}.bias", (out,)
