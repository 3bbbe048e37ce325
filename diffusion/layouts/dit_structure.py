"""The structure of a diffusion transformer, read from the names and shapes of its tensors.

The layout in which each kind was first published, and diffusers', give the same spec; `shapes` are keys without any prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count, takewhile
from math import isqrt
from typing import Any, TypeVar

from ..families.dit_specs import PATCH, Flux2Spec, FluxSpec, MMDiTSpec
from .structure import Shapes, StructureError, shape_of

MMDIT_HEAD = 64  # width of a head of every SD3; those that normalise queries show it
Names = Mapping[str, str]
Turned = TypeVar("Turned", FluxSpec, Flux2Spec)

_MMDIT: Sequence[Names] = (
    {
        "picture": "x_embedder.proj.weight",
        "positions": "pos_embed",
        "text": "context_embedder.weight",
        "pooled": "y_embedder.mlp.0.weight",
        "blocks": "joint_blocks.{}.x_block.attn.proj.weight",
        "dual": "joint_blocks.{}.x_block.attn2.proj.weight",
        "norm": "joint_blocks.0.x_block.attn.ln_q.weight",
        "out": "final_layer.linear.weight",
    },
    {
        "picture": "pos_embed.proj.weight",
        "positions": "pos_embed.pos_embed",
        "text": "context_embedder.weight",
        "pooled": "time_text_embed.text_embedder.linear_1.weight",
        "blocks": "transformer_blocks.{}.attn.to_out.0.weight",
        "dual": "transformer_blocks.{}.attn2.to_out.0.weight",
        "norm": "transformer_blocks.0.attn.norm_q.weight",
        "out": "proj_out.weight",
    },
)
_FLUX: Sequence[Names] = (
    {
        "picture": "img_in.weight",
        "text": "txt_in.weight",
        "pooled": "vector_in.in_layer.weight",
        "guidance": "guidance_in.in_layer.weight",
        "double": "double_blocks.{}.img_attn.proj.weight",
        "single": "single_blocks.{}.linear2.weight",
        "norm": "double_blocks.0.img_attn.norm.key_norm.scale",
        "out": "final_layer.linear.weight",
    },
    {
        "picture": "x_embedder.weight",
        "text": "context_embedder.weight",
        "pooled": "time_text_embed.text_embedder.linear_1.weight",
        "guidance": "time_text_embed.guidance_embedder.linear_1.weight",
        "double": "transformer_blocks.{}.attn.to_out.0.weight",
        "single": "single_transformer_blocks.{}.proj_out.weight",
        "norm": "transformer_blocks.0.attn.norm_k.weight",
        "out": "proj_out.weight",
    },
)
_FLUX2: Sequence[Names] = (
    {
        "picture": "img_in.weight",
        "text": "txt_in.weight",
        "time": "time_in.in_layer.weight",
        "guidance": "guidance_in.in_layer.weight",
        "double": "double_blocks.{}.img_attn.proj.weight",
        "single": "single_blocks.{}.linear2.weight",
        "feed": "double_blocks.0.img_mlp.2.weight",
        "norm": "double_blocks.0.img_attn.norm.key_norm.scale",
        "out": "final_layer.linear.weight",
    },
    {
        "picture": "x_embedder.weight",
        "text": "context_embedder.weight",
        "time": "time_guidance_embed.timestep_embedder.linear_1.weight",
        "guidance": "time_guidance_embed.guidance_embedder.linear_1.weight",
        "double": "transformer_blocks.{}.attn.to_out.0.weight",
        "single": "single_transformer_blocks.{}.attn.to_out.weight",
        "feed": "transformer_blocks.0.ff.linear_out.weight",
        "norm": "transformer_blocks.0.attn.norm_k.weight",
        "out": "proj_out.weight",
    },
)


def read_mmdit(shapes: Shapes) -> MMDiTSpec:
    """Returns the structure of SD3's transformer. Raises StructureError."""
    names = _layout(_MMDIT, shapes)
    width, in_channels = shape_of(shapes, names["picture"], 4)[:2]
    depth = number_of_blocks(shapes, names["blocks"])
    places = shape_of(shapes, names["positions"], 3)[1]
    if isqrt(places) ** 2 != places:
        raise StructureError(f"{names['positions']!r} has {places} places, which make no square")
    norm = shapes.get(names["norm"])
    return MMDiTSpec(
        in_channels=in_channels,
        out_channels=shape_of(shapes, names["out"], 2)[0] // PATCH**2,
        width=width,
        depth=depth,
        heads=heads_of(width, norm[0] if norm else MMDIT_HEAD),
        context_width=shape_of(shapes, names["text"], 2)[1],
        pooled_width=shape_of(shapes, names["pooled"], 2)[1],
        positions=isqrt(places),
        query_norm=norm is not None,
        dual_attention=tuple(n for n in range(depth) if names["dual"].format(n) in shapes),
    )


def read_flux(shapes: Shapes) -> FluxSpec:
    """Returns the structure of FLUX.1's transformer. Raises StructureError."""
    names = _layout(_FLUX, shapes)
    width, channels = shape_of(shapes, names["picture"], 2)
    head = _head_width(shapes, names["norm"])
    return FluxSpec(
        in_channels=channels // PATCH**2,
        out_channels=shape_of(shapes, names["out"], 2)[0] // PATCH**2,
        width=width,
        heads=heads_of(width, head),
        double_blocks=number_of_blocks(shapes, names["double"]),
        single_blocks=number_of_blocks(shapes, names["single"]),
        context_width=shape_of(shapes, names["text"], 2)[1],
        pooled_width=shape_of(shapes, names["pooled"], 2)[1],
        guidance=names["guidance"] in shapes,
        axes=(head // 8, head * 7 // 16, head * 7 // 16),  # 16, 56, 56 of 128
    )


def read_flux2(shapes: Shapes) -> Flux2Spec:
    """Returns the structure of FLUX.2's transformer. Raises StructureError."""
    names = _layout(_FLUX2, shapes)
    width, channels = shape_of(shapes, names["picture"], 2)
    head = _head_width(shapes, names["norm"])
    return Flux2Spec(
        in_channels=channels,
        out_channels=shape_of(shapes, names["out"], 2)[0],
        width=width,
        heads=heads_of(width, head),
        double_blocks=number_of_blocks(shapes, names["double"]),
        single_blocks=number_of_blocks(shapes, names["single"]),
        context_width=shape_of(shapes, names["text"], 2)[1],
        mlp_width=shape_of(shapes, names["feed"], 2)[1],
        time_width=shape_of(shapes, names["time"], 2)[1],
        guidance=names["guidance"] in shapes,
        axes=(head // 4, head // 4, head // 4, head // 4),
    )


def with_axes(spec: Turned, config: Mapping[str, Any]) -> Turned:
    """Returns a structure with the axes that a diffusers config states. Raises StructureError for axes that can't be."""
    stated = config.get("axes_dims_rope", spec.axes)
    axes = tuple(stated) if isinstance(stated, list | tuple) else ()
    head = spec.width // spec.heads
    if len(axes) != len(spec.axes) or not all(isinstance(n, int) and n > 0 and n % 2 == 0 for n in axes):
        raise StructureError(f"its heads turn by axes of {stated!r} numbers; expected {len(spec.axes)} even numbers")
    if sum(axes) != head:
        raise StructureError(f"its axes of {stated!r} numbers do not make up a head of {head}")
    return replace(spec, axes=axes)


def _head_width(shapes: Shapes, norm: str) -> int:
    """Returns how wide a norm of queries is, whose gain some files call `weight`."""
    gain = norm.replace(".scale", ".weight")
    return shape_of(shapes, gain if gain in shapes else norm, 1)[0]


def _layout(layouts: Sequence[Names], shapes: Shapes) -> Names:
    return next((names for names in layouts if names["picture"] in shapes), layouts[0])


def number_of_blocks(shapes: Shapes, template: str) -> int:
    """Returns how many blocks there are, counted from zero."""
    return sum(1 for _ in takewhile(shapes.__contains__, map(template.format, count())))


def heads_of(width: int, head: int) -> int:
    """Returns how many heads of `head` numbers share a width. Raises StructureError if they don't."""
    if not head or width % head:
        raise StructureError(f"a width of {width} can't be shared by heads of {head}")
    return width // head
