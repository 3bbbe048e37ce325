"""The structure of ControlNets for transformers, read from names and shapes in any of their layouts; see `reading`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..checkpoints.headers import Header, read_floats
from ..checkpoints.parts import find_shapes
from ..families.dit_specs import PATCH, MMDiTSpec
from ..layouts.dit_structure import MMDIT_HEAD, heads_of, number_of_blocks, read_flux, read_mmdit, with_axes
from ..layouts.structure import Shapes, StructureError, shape_of
from .keymaps import CONTROL_TYPE, HINT_BLOCK, STABILITY_MARK
from .specs import HintSpec
from .transformer_specs import HINT_WIDTH, FluxControlSpec, SD3ControlSpec, TransformerControlSpec

SD3 = "pos_embed_input.proj.weight"  # the keys that tell one kind from the other
FLUX, XLABS = "controlnet_x_embedder.weight", "pos_embed_input.weight"

POOLED = "time_text_embed.text_embedder.linear_1.weight"
LAST_LAYERS = "proj_out.weight", "final_layer.linear.weight"  # which ControlNets have none of
SHOWN = ("blur", "canny", "depth")  # what the pictures of Stability AI's networks show, in the order of `CONTROL_TYPE`
VALUES = {"canny": (63.75, 0.75), "depth": (-1.0, 1.0)}
"""Gain and offset of pictures as Stability AI's networks for SD3.5 large were trained with them. Edges x in 0..1 reach the
autoencoder as 127.5 x + 0.5 (Stability AI's sd3_infer.py, and the networks' cards for diffusers); in their depth maps what is
near is dark, where others have it bright (turned round in ComfyUI 0.8.0, too)."""


def read_transformer_control(
    headers: Sequence[Header], config: Mapping[str, Any], name: str
) -> TransformerControlSpec | None:
    """Returns the structure of a ControlNet for SD3 or FLUX.1, or None for a file of neither. Raises StructureError.

    name: of its file or folder.
    """
    shapes = find_shapes(headers, "")
    if SD3 in shapes:
        return _leaning_sd3(headers, shapes, name) if "context_embedder.weight" not in shapes else _sd3(shapes, config)
    hint = next((key for key in (FLUX, XLABS) if key in shapes), None)
    return None if hint is None else _flux(shapes, hint, config)


def _sd3(shapes: Shapes, config: Mapping[str, Any]) -> SD3ControlSpec:
    channels = shape_of(shapes, "pos_embed.proj.weight", 4)[1]
    hint = HintSpec(channels, latent=True, mask=_masked(shape_of(shapes, SD3, 4)[1], channels))
    pooled = config.get("force_zeros_for_pooled_projection") is False
    shifted = pooled or hint.mask  # InstantX's networks were trained without, alimama's with
    return SD3ControlSpec(read_mmdit(_with_last_layer(shapes, channels)), replace(hint, shifted=shifted), pooled=pooled)


def _leaning_sd3(headers: Sequence[Header], shapes: Shapes, name: str) -> SD3ControlSpec:
    width, channels = shape_of(shapes, SD3, 4)[:2]
    pooled_width = shape_of(shapes, POOLED, 2)[1]
    original = STABILITY_MARK in shapes
    if original and pooled_width == width:
        raise StructureError(
            "it takes pooled text through the embedding of the network that it steers, which is not supported"
        )
    blocks = "transformer_blocks.{}.attn.proj.weight" if original else "transformer_blocks.{}.attn.to_out.0.weight"
    network = MMDiTSpec(
        in_channels=channels,
        out_channels=channels,
        width=width,
        depth=number_of_blocks(shapes, blocks),
        heads=heads_of(width, MMDIT_HEAD),
        context_width=0,
        pooled_width=pooled_width,
        positions=0,
    )
    gain, offset = VALUES.get(_shown(headers, name), (1.0, 0.0))
    return SD3ControlSpec(network, HintSpec(channels, latent=True, gain=gain, offset=offset), pooled=True)


def _flux(shapes: Shapes, hint: str, config: Mapping[str, Any]) -> FluxControlSpec:
    pictures = next((key for key in ("x_embedder.weight", "img_in.weight") if key in shapes), "x_embedder.weight")
    channels = shape_of(shapes, pictures, 2)[1] // PATCH**2
    network = with_axes(read_flux(_with_last_layer(shapes, channels)), config)
    modes = shapes.get("controlnet_mode_embedder.weight")
    first = next((key for key in (f"{name}.weight" for name in HINT_BLOCK[0]) if key in shapes), None)
    if first is not None:
        found = shape_of(shapes, first, 4)
        if found[0] != HINT_WIDTH:
            raise StructureError(f"it sees pixels through {found[0]} channels, not {HINT_WIDTH}")
        return FluxControlSpec(network, HintSpec(found[1]))
    if hint == XLABS:
        raise StructureError("it sees its picture through other layers than XLabs' networks do, which is not supported")
    masked = _masked(shape_of(shapes, hint, 2)[1] // PATCH**2, channels)
    return FluxControlSpec(network, HintSpec(channels, latent=True, mask=masked), union=modes[0] if modes else None)


def _masked(found: int, channels: int) -> bool:
    """Returns whether a picture's latent of so many channels comes with a mask."""
    if found not in (channels, channels + 1):
        raise StructureError(f"it is shown {found} channels beside a latent of {channels}; a mask is one more")
    return found > channels


def _with_last_layer(shapes: Shapes, channels: int) -> Shapes:
    """Returns the shapes of a whole transformer, from whose last layer `dit_structure` reads how many channels come out."""
    return {**shapes, **dict.fromkeys(LAST_LAYERS, (PATCH**2 * channels, 1))}


def _shown(headers: Sequence[Header], name: str) -> str:
    """Returns what a network's pictures show: as its file says, else by its name."""
    for header in headers:
        info = header.tensors.get(CONTROL_TYPE)
        if info is not None and info.numel == 1:
            number = int(read_floats(header, CONTROL_TYPE)[0])
            return SHOWN[number] if 0 <= number < len(SHOWN) else ""
    return next((shown for shown in SHOWN if shown in name.lower()), "")
