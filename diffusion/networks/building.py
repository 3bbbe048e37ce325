"""Builds the networks of diffusers and transformers from a spec, without weights.

What is built lies on the meta device: it has every tensor's name and shape, and no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from diffusers import (
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.models.attention_processor import Attention
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from ..families.dit_specs import PATCH, Flux2Spec, FluxSpec, MMDiTSpec
from ..families.plain_unets import PlainUNetSpec
from ..families.specs import DenoiserSpec, NetworkKind, UNetSpec
from ..families.vision import ClipVisionSpec
from ..layouts.structure import StructureError

GROUPS = 32  # of every group norm in these networks


def build_denoiser(spec: DenoiserSpec) -> nn.Module:
    """Returns diffusers' network of this structure. Raises StructureError for one that diffusers can't express."""
    network: nn.Module = _BUILDERS[spec.kind](spec)
    return network


def build_unet(spec: UNetSpec) -> UNet2DConditionModel:
    """Returns diffusers' UNet of this structure. Raises StructureError for one that diffusers can't express."""
    check_widths(spec.widths)
    # Where the innermost level has no attention, its depth is free and serves the middle block, which has the last one.
    down = [list(depths) if any(depths) else [spec.depth_middle or 1] for depths in spec.depths_in]
    up = [list(depths) if any(depths) else [1] for depths in spec.depths_out]
    if not all(all(depths) for depths in (*down, *up)):
        raise StructureError(f"a level attends in some of its blocks only: depths {spec.depths_in}, {spec.depths_out}")
    if spec.depth_middle and down[-1][0] != spec.depth_middle:
        raise StructureError(f"depth {spec.depth_middle} in the middle, but {down[-1][0]} at the innermost level")
    middles = {None: None, 0: "UNetMidBlock2D"}
    with torch.device("meta"):
        return UNet2DConditionModel(
            in_channels=spec.in_channels,
            out_channels=spec.out_channels,
            block_out_channels=spec.widths,
            layers_per_block=spec.res_blocks,
            down_block_types=["CrossAttnDownBlock2D" if any(depths) else "DownBlock2D" for depths in spec.depths_in],
            up_block_types=["CrossAttnUpBlock2D" if any(depths) else "UpBlock2D" for depths in spec.depths_out],
            mid_block_type=middles.get(spec.depth_middle, "UNetMidBlock2DCrossAttn"),
            transformer_layers_per_block=down,
            reverse_transformer_layers_per_block=up,
            attention_head_dim=spec.heads,  # diffusers' old name for the number of heads
            cross_attention_dim=spec.context_width,
            use_linear_projection=spec.linear_projection,
            addition_embed_type="text_time" if spec.pooled_width else None,
            addition_time_embed_dim=spec.size_width if spec.pooled_width else None,
            class_embed_type="projection" if spec.vector_width and not spec.pooled_width else None,
            projection_class_embeddings_input_dim=spec.vector_width,
            num_class_embeds=spec.noise_levels,
            only_cross_attention=spec.text_alone or False,
            norm_num_groups=GROUPS,
        )


def build_plain_unet(spec: PlainUNetSpec) -> UNet2DModel:
    """Returns diffusers' UNet without text of this structure. Raises StructureError for one that diffusers can't express."""
    check_widths(spec.widths)
    plain = {"conv": ("DownBlock2D", "UpBlock2D"), "resnet": ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")}
    down, up = plain[spec.resampling]
    with torch.device("meta"):
        network = UNet2DModel(
            in_channels=spec.in_channels,
            out_channels=spec.out_channels,
            block_out_channels=spec.widths,
            layers_per_block=spec.blocks,
            down_block_types=["AttnDownBlock2D" if attends else down for attends in spec.attention],
            up_block_types=["AttnUpBlock2D" if attends else up for attends in reversed(spec.attention)],
            downsample_type=spec.resampling,
            upsample_type=spec.resampling,
            attention_head_dim=1,  # of all levels, where LDM's differ; see below
            attn_norm_num_groups=GROUPS,
            resnet_time_scale_shift="scale_shift" if spec.scale_shift else "default",
            norm_num_groups=GROUPS,
        )
    heads = dict(zip(spec.widths, spec.heads, strict=True))
    for module in network.modules():
        if isinstance(module, Attention):
            module.heads = heads[module.inner_dim]
    return network


def build_mmdit(spec: MMDiTSpec) -> SD3Transformer2DModel:
    """Returns diffusers' SD3 transformer of this structure."""
    with torch.device("meta"):
        return SD3Transformer2DModel(**mmdit_config(spec))


def mmdit_config(spec: MMDiTSpec) -> dict[str, Any]:
    """Returns the arguments by which diffusers makes SD3's transformer, or a ControlNet for it, of this structure."""
    return {
        "patch_size": PATCH,
        "in_channels": spec.in_channels,
        "out_channels": spec.out_channels,
        "num_layers": spec.depth,
        "attention_head_dim": spec.width // spec.heads,
        "num_attention_heads": spec.heads,
        "joint_attention_dim": spec.context_width,
        "caption_projection_dim": spec.width,
        "pooled_projection_dim": spec.pooled_width,
        "pos_embed_max_size": spec.positions,
        "dual_attention_layers": spec.dual_attention,
        "qk_norm": "rms_norm" if spec.query_norm else None,
    }


def build_flux(spec: FluxSpec) -> FluxTransformer2DModel:
    """Returns diffusers' FLUX.1 transformer of this structure; it is given tokens of 2x2 cells."""
    with torch.device("meta"):
        return FluxTransformer2DModel(patch_size=1, out_channels=PATCH**2 * spec.out_channels, **flux_config(spec))


def flux_config(spec: FluxSpec) -> dict[str, Any]:
    """Returns the arguments by which diffusers makes FLUX.1's transformer, or a ControlNet for it, of this structure."""
    return {
        "in_channels": PATCH**2 * spec.in_channels,
        "num_layers": spec.double_blocks,
        "num_single_layers": spec.single_blocks,
        "attention_head_dim": spec.width // spec.heads,
        "num_attention_heads": spec.heads,
        "joint_attention_dim": spec.context_width,
        "pooled_projection_dim": spec.pooled_width,
        "guidance_embeds": spec.guidance,
        "axes_dims_rope": spec.axes,
    }


def build_flux2(spec: Flux2Spec) -> Flux2Transformer2DModel:
    """Returns diffusers' FLUX.2 transformer of this structure."""
    with torch.device("meta"):
        return Flux2Transformer2DModel(
            patch_size=1,
            in_channels=spec.in_channels,
            out_channels=spec.out_channels,
            num_layers=spec.double_blocks,
            num_single_layers=spec.single_blocks,
            attention_head_dim=spec.width // spec.heads,
            num_attention_heads=spec.heads,
            joint_attention_dim=spec.context_width,
            timestep_guidance_channels=spec.time_width,
            mlp_ratio=spec.mlp_width / spec.width,
            axes_dims_rope=spec.axes,
            guidance_embeds=spec.guidance,
        )


_BUILDERS: Mapping[NetworkKind, Callable[[Any], Any]] = {
    "unet": build_unet,
    "plain_unet": build_plain_unet,
    "mmdit": build_mmdit,
    "flux": build_flux,
    "flux2": build_flux2,
}


def build_vision(spec: ClipVisionSpec, *, attention: Literal["eager", "sdpa"] = "sdpa") -> nn.Module:
    """Returns transformers' vision tower of this structure: CLIP's with its projection, or SigLIP's."""
    shared = {
        "hidden_size": spec.width,
        "intermediate_size": spec.intermediate,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "image_size": spec.side,
        "patch_size": spec.patch,
        "hidden_act": spec.activation,
        "attn_implementation": attention,
    }
    with torch.device("meta"):
        network: nn.Module
        if spec.kind == "clip":
            network = CLIPVisionModelWithProjection(CLIPVisionConfig(**shared, projection_dim=spec.projection_width))
        else:
            network = SiglipVisionModel(SiglipVisionConfig(**shared, vision_use_head=spec.pooling_head))
    return network


def check_widths(widths: Sequence[int]) -> None:
    """Raises StructureError for levels that group norms can't divide."""
    if odd := [width for width in widths if width % GROUPS]:
        raise StructureError(f"levels of {odd} channels, which {GROUPS} groups can't share equally")
