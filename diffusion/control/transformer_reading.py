"""The structure of ControlNets for transformers, read from names and shapes in diffusers' layout; see `reading`."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

from ..families.dit_specs import PATCH, FluxSpec, MMDiTSpec
from ..layouts.dit_structure import MMDIT_HEAD, heads_of, number_of_blocks, with_axes
from ..layouts.structure import Shapes, StructureError, shape_of
from .specs import TransformerControlSpec

SD3, FLUX = "pos_embed_input.proj.weight", "controlnet_x_embedder.weight"  # the keys that tell one from the other


def read_transformer_control(shapes: Shapes, config: Mapping[str, Any]) -> TransformerControlSpec | None:
    """Returns the structure of a ControlNet for SD3 or FLUX.1, or None for a file of neither. Raises StructureError."""
    if SD3 in shapes:
        return _sd3(shapes, config)
    return _flux(shapes, config) if FLUX in shapes else None


def _sd3(shapes: Shapes, config: Mapping[str, Any]) -> TransformerControlSpec:
    if "pos_embed.proj.weight" not in shapes or "context_embedder.weight" not in shapes:
        raise StructureError("it leans on the embeddings of SD3.5 large, which is not supported")
    width, channels = shape_of(shapes, "pos_embed.proj.weight", 4)[:2]
    hint = shape_of(shapes, SD3, 4)[1]
    if hint != channels:
        raise StructureError(f"its picture has {hint} channels and the latent {channels}: masks are not supported")
    norm = shapes.get("transformer_blocks.0.attn.norm_q.weight")
    head = norm[0] if norm else MMDIT_HEAD
    depth = number_of_blocks(shapes, "transformer_blocks.{}.attn.to_out.0.weight")
    network = MMDiTSpec(
        in_channels=channels,
        out_channels=channels,
        width=width,
        depth=depth,
        heads=heads_of(width, head),
        context_width=shape_of(shapes, "context_embedder.weight", 2)[1],
        pooled_width=shape_of(shapes, "time_text_embed.text_embedder.linear_1.weight", 2)[1],
        positions=isqrt(shape_of(shapes, "pos_embed.pos_embed", 3)[1]),
        query_norm=norm is not None,
        dual_attention=tuple(n for n in range(depth) if f"transformer_blocks.{n}.attn2.to_out.0.weight" in shapes),
    )
    return TransformerControlSpec("sd3", network, plain=config.get("force_zeros_for_pooled_projection") is not False)


def _flux(shapes: Shapes, config: Mapping[str, Any]) -> TransformerControlSpec:
    if "input_hint_block.conv_in.weight" in shapes:
        raise StructureError("it sees pixels, as XLabs' networks do, which is not supported")
    width, channels = shape_of(shapes, "x_embedder.weight", 2)
    if "transformer_blocks.0.attn.norm_k.weight" not in shapes:
        raise StructureError("it has no blocks")
    (head,) = shape_of(shapes, "transformer_blocks.0.attn.norm_k.weight", 1)
    modes = shapes.get("controlnet_mode_embedder.weight")
    network = FluxSpec(
        in_channels=channels // PATCH**2,
        out_channels=channels // PATCH**2,
        width=width,
        heads=heads_of(width, head),
        double_blocks=number_of_blocks(shapes, "transformer_blocks.{}.attn.to_out.0.weight"),
        single_blocks=number_of_blocks(shapes, "single_transformer_blocks.{}.proj_out.weight"),
        context_width=shape_of(shapes, "context_embedder.weight", 2)[1],
        pooled_width=shape_of(shapes, "time_text_embed.text_embedder.linear_1.weight", 2)[1],
        guidance="time_text_embed.guidance_embedder.linear_1.weight" in shapes,
        axes=(head // 8, head * 7 // 16, head * 7 // 16),
    )
    return TransformerControlSpec("flux", with_axes(network, config), union=modes[0] if modes else None)
