"""Every tensor of a control network by name and shape, worked out from its spec alone; see `layouts.layout`.

Names are those of diffusers' ControlNetModel, ControlNetUnionModel, T2IAdapter (without "adapter."), SD3ControlNetModel and
FluxControlNetModel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from ..families.dit_specs import PATCH, FluxSpec, MMDiTSpec
from ..layouts.dit_layout import GROWTH, flux_layout, mmdit_layout, mmdit_tables
from ..layouts.layout import Entry, conv, dense, norm, unet_layout
from ..layouts.structure import Shapes
from .specs import ControlSpec
from .transformer_specs import HINT_CONVOLUTIONS, HINT_WIDTH, FluxControlSpec, SD3ControlSpec
from .unet_specs import ControlNetSpec, T2IAdapterSpec, UnionSpec, skip_widths

_NO_PART = ("up_blocks.", "conv_norm_out.", "conv_out.", "norm_out.", "proj_out.")
"""What control networks have no part of: the way back to a latent."""


def control_layout(spec: ControlSpec) -> Shapes:
    """Returns the shape of each tensor of diffusers' control network of this structure."""
    if isinstance(spec, ControlNetSpec):
        return dict(_control_net(spec))
    if isinstance(spec, SD3ControlSpec):
        return dict(_sd3(spec))
    if isinstance(spec, FluxControlSpec):
        return dict(_flux(spec))
    assert isinstance(spec, T2IAdapterSpec), "every kind of control network has its layout"
    return dict(_t2i_adapter(spec))


def _control_net(spec: ControlNetSpec) -> Iterator[Entry]:
    encoder = spec.encoder
    yield from _parts(unet_layout(replace(encoder, depths_out=((),) * len(encoder.widths))))
    skips = skip_widths(encoder)
    for n, width in enumerate(skips):
        yield from conv(f"controlnet_down_blocks.{n}", width, width, kernel=1)
    yield from conv("controlnet_mid_block", skips[-1], skips[-1], kernel=1)
    hint = "controlnet_cond_embedding"
    yield from conv(f"{hint}.conv_in", spec.hint_widths[0], spec.picture_channels)
    for n, (into, out) in enumerate(pairwise(spec.hint_widths)):
        yield from conv(f"{hint}.blocks.{2 * n}", into, into)
        yield from conv(f"{hint}.blocks.{2 * n + 1}", out, into)
    yield from conv(f"{hint}.conv_out", skips[0], spec.hint_widths[-1])
    if spec.union is not None:
        yield from _union(spec.union, skips[0], encoder.size_width)


def _union(union: UnionSpec, first: int, size_width: int) -> Iterator[Entry]:
    width = union.width
    yield "task_embedding", (union.kinds, width)
    for n in range(union.layers):
        layer = f"transformer_layes.{n}"
        yield f"{layer}.attn.in_proj_weight", (3 * width, width)
        yield f"{layer}.attn.in_proj_bias", (3 * width,)
        yield from dense(f"{layer}.attn.out_proj", width, width)
        yield from norm(f"{layer}.ln_1", width)
        yield from norm(f"{layer}.ln_2", width)
        yield from dense(f"{layer}.mlp.c_fc", GROWTH * width, width)
        yield from dense(f"{layer}.mlp.c_proj", width, GROWTH * width)
    yield from dense("spatial_ch_projs", first, width)
    yield from dense("control_add_embedding.linear_1", 4 * first, union.kinds * size_width)
    yield from dense("control_add_embedding.linear_2", 4 * first, 4 * first)


def _t2i_adapter(spec: T2IAdapterSpec) -> Iterator[Entry]:
    folded, light = spec.picture_channels * spec.downscale**2, spec.kind == "light_adapter"
    into = folded if light else spec.widths[0]
    if not light:
        yield from conv("conv_in", into, folded)
    for n, out in enumerate(spec.features):
        inner = out // 4 if light else out
        if light or into != out:
            yield from conv(f"body.{n}.in_conv", inner, into, kernel=1)
        for i in range(spec.res_blocks):
            yield from conv(f"body.{n}.resnets.{i}.block1", inner, inner)
            yield from conv(f"body.{n}.resnets.{i}.block2", inner, inner, kernel=3 if light else 1)
        if light:
            yield from conv(f"body.{n}.out_conv", out, inner, kernel=1)
        into = out


def _sd3(spec: SD3ControlSpec) -> Iterator[Entry]:
    network = spec.network
    # The last block of a whole transformer is another one, so that a copy of some is that of one more without it.
    whole = mmdit_layout(replace(network, depth=network.depth + 1))
    if spec.leans:
        yield from _embedders(whole)
        for n in range(network.depth):
            yield from _block_without_text(f"transformer_blocks.{n}", network.width)
    else:
        yield from _parts(whole, f"transformer_blocks.{network.depth}.")
        yield from mmdit_tables(network).items()
    yield from _outputs("controlnet_blocks", network, network.depth)
    kernel = (PATCH, PATCH)
    yield "pos_embed_input.proj.weight", (network.width, spec.hint.channels + spec.hint.mask, *kernel)
    yield "pos_embed_input.proj.bias", (network.width,)


def _block_without_text(block: str, width: int) -> Iterator[Entry]:
    yield from dense(f"{block}.norm1.linear", 6 * width, width)
    for projection in ("to_q", "to_k", "to_v", "to_out.0"):
        yield from dense(f"{block}.attn.{projection}", width, width)
    yield from dense(f"{block}.ff.net.0.proj", GROWTH * width, width)
    yield from dense(f"{block}.ff.net.2", width, GROWTH * width)


def _flux(spec: FluxControlSpec) -> Iterator[Entry]:
    network, hint = spec.network, spec.hint
    yield from _parts(flux_layout(network))
    yield from _outputs("controlnet_blocks", network, network.double_blocks)
    yield from _outputs("controlnet_single_blocks", network, network.single_blocks)
    channels = hint.channels + hint.mask if hint.latent else network.in_channels
    yield from dense("controlnet_x_embedder", network.width, PATCH**2 * channels)
    if spec.union is not None:
        yield "controlnet_mode_embedder.weight", (spec.union, network.width)
    if not hint.latent:
        yield from conv("input_hint_block.conv_in", HINT_WIDTH, hint.channels)
        for n in range(HINT_CONVOLUTIONS):
            yield from conv(f"input_hint_block.blocks.{n}", HINT_WIDTH, HINT_WIDTH)
        yield from conv("input_hint_block.conv_out", network.in_channels, HINT_WIDTH)


def _outputs(name: str, network: MMDiTSpec | FluxSpec, number: int) -> Iterator[Entry]:
    for n in range(number):
        yield from dense(f"{name}.{n}", network.width, network.width)


def _parts(whole: Shapes, *others: str) -> Iterator[Entry]:
    """Yields the tensors of a whole network but for its end, and for others."""
    yield from ((name, shape) for name, shape in whole.items() if not name.startswith((*_NO_PART, *others)))


def _embedders(whole: Shapes) -> Iterator[Entry]:
    yield from ((name, shape) for name, shape in whole.items() if name.startswith("time_text_embed."))
