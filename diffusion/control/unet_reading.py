"""The structure of control networks for UNets, read from names and shapes in any of their layouts; see `reading`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count, takewhile
from typing import Any

from ..checkpoints.headers import Header
from ..checkpoints.parts import find_shapes
from ..checkpoints.recognise import unlikeness
from ..families.catalogue import FAMILIES
from ..families.specs import Family, UNetSpec
from ..layouts.structure import Shapes, StructureError, read_encoder, with_heads
from .unet_specs import AdapterKind, ControlNetSpec, T2IAdapterSpec, UnionSpec

LORA_MARK = "lora_controlnet"  # the key that a control LoRA is told by
CONTROL_NET_PREFIXES = ("control_model.", "module.", "")
ADAPTER_PREFIXES = ("adapter.", "")
POOLED_NAMES = ("_shuffle", "_shuffle_fp16")  # how the files of networks end that say the same of the whole picture
STEERED_FAMILIES = ("sd1", "sd2", "sdxl")  # those that ControlNets for UNets are made for
NO_ATTENTION_FAMILY = "sdxl"  # the only one that ControlNets without attention were published for
HEAD_WIDTH = 64  # of attention in networks of no known family
UNSHUFFLE_LARGE, UNSHUFFLE = 16, 8  # pixels that an adapter folds into a cell: SDXL's, and all others


def read_control_net(
    headers: Sequence[Header], config: Mapping[str, Any], name: str
) -> tuple[str, ControlNetSpec] | None:
    """Returns the prefix and the structure of a ControlNet or a control LoRA, or None for other files. Raises StructureError.

    name: of its file or folder.
    """
    for prefix in CONTROL_NET_PREFIXES:
        shapes = find_shapes(headers, prefix)
        if (lora := LORA_MARK in shapes) or "zero_convs.0.0.weight" in shapes:
            whole = whole_shapes(shapes) if lora else shapes
            hint = takewhile(whole.__contains__, (f"input_hint_block.{2 * n}.weight" for n in count()))
            return prefix, replace(_control_net_spec(whole, list(hint), name, config), lora=lora)
        if "controlnet_cond_embedding.conv_in.weight" in shapes:
            blocks = (f"controlnet_cond_embedding.blocks.{n}.weight" for n in count())
            inner = takewhile(shapes.__contains__, blocks)
            names = ["controlnet_cond_embedding.conv_in.weight", *inner, "controlnet_cond_embedding.conv_out.weight"]
            return prefix, _control_net_spec(shapes, names, name, config)
    return None


def whole_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a control LoRA's network: those of its products, where the file has the factors `up` and `down`."""
    whole = {key: shape for key, shape in shapes.items() if not key.endswith((".up", ".down")) and key != LORA_MARK}
    for key, down in shapes.items():
        module = key.removesuffix(".down")
        if module != key and (up := shapes.get(f"{module}.up")) is not None:
            whole[f"{module}.weight"] = (up[0], *down[1:])
    return whole


def _control_net_spec(shapes: Shapes, hint: Sequence[str], name: str, config: Mapping[str, Any]) -> ControlNetSpec:
    """hint: the weights of the convolutions that shrink the picture, in order. name: of its file or folder."""
    encoder = read_encoder(shapes)
    family = _family_of(encoder)
    heads = config.get("num_attention_heads") or config.get("attention_head_dim")
    head_count, head_width = (family.head_count, family.head_width) if family else (None, HEAD_WIDTH)
    encoder = with_heads(encoder, head_count=head_count, head_width=head_width)
    if isinstance(heads, int):
        heads = [heads] * len(encoder.widths)
    if isinstance(heads, list) and len(heads) == len(encoder.widths) and all(isinstance(h, int) and h for h in heads):
        encoder = replace(encoder, heads=tuple(heads))
    size_width = config.get("addition_time_embed_dim")
    if isinstance(size_width, int):
        encoder = replace(encoder, size_width=size_width)
    convolutions = [shapes[key] for key in hint if key in shapes]
    if len(convolutions) < 3 or any(len(shape) != 4 for shape in convolutions):
        raise StructureError("the convolutions that take its picture are missing")
    first, *between, _ = convolutions
    return ControlNetSpec(
        family=None if family is None else family.name,
        encoder=encoder,
        picture_channels=first[1],
        hint_widths=(first[0], *(shape[0] for shape in between[1::2])),
        pooled=name.endswith(POOLED_NAMES) or config.get("global_pool_conditions") is True,
        union=_union(shapes),
    )


def _union(shapes: Shapes) -> UnionSpec | None:
    tasks = shapes.get("task_embedding")
    if tasks is None:
        return None
    if len(tasks) != 2:
        raise StructureError(f"'task_embedding' has the shape {list(tasks)}, not 2 dimensions")
    layers = takewhile(shapes.__contains__, (f"transformer_layes.{n}.ln_1.weight" for n in count()))
    return UnionSpec(kinds=tasks[0], width=tasks[1], layers=sum(1 for _ in layers))


def _family_of(encoder: UNetSpec) -> Family | None:
    """Returns the family whose networks have such an encoder."""
    rows = [row for row in FAMILIES if row.name in STEERED_FAMILIES]
    if not encoder.context_width:
        return next((row for row in rows if row.name == NO_ATTENTION_FAMILY), None)
    return next((row for row in rows if row.unet and not unlikeness(row.unet, encoder)), None)


def read_t2i_adapter(headers: Sequence[Header]) -> tuple[str, T2IAdapterSpec] | None:
    """Returns the prefix and the structure of a T2I adapter, or None for other files. Raises StructureError."""
    for prefix in ADAPTER_PREFIXES:
        shapes = find_shapes(headers, prefix)
        if "body.0.in_conv.weight" in shapes:
            return prefix, _light_adapter(shapes)
        if {"body.0.block1.weight", "body.0.resnets.0.block1.weight"} & shapes.keys():
            return prefix, _full_adapter(shapes)
    return None


def _full_adapter(shapes: Shapes) -> T2IAdapterSpec:
    """Reads blocks, each of as many res blocks; the original layout counts the res blocks through."""
    if "body.0.block1.weight" in shapes:
        names = takewhile(shapes.__contains__, (f"body.{n}.block1.weight" for n in count()))
        all_widths = [_width(shapes, name) for name in names]
        starts = [n for n in range(1, len(all_widths)) if f"body.{n}.in_conv.weight" in shapes]
        res_blocks = starts[0] if starts else len(all_widths)
        widths = all_widths[::res_blocks]
        if len(all_widths) % res_blocks:
            raise StructureError(f"its {len(all_widths)} res blocks do not make up blocks of {res_blocks}")
    else:
        names = takewhile(shapes.__contains__, (f"body.{n}.resnets.0.block1.weight" for n in count()))
        widths = [_width(shapes, name) for name in names]
        inner = takewhile(shapes.__contains__, (f"body.0.resnets.{n}.block1.weight" for n in count()))
        res_blocks = sum(1 for _ in inner)
    folded = _width(shapes, "conv_in.weight", 1)
    large = folded % UNSHUFFLE_LARGE**2 == 0
    kind: AdapterKind = "full_adapter_xl" if large else "full_adapter"
    downscale = UNSHUFFLE_LARGE if large else UNSHUFFLE
    return T2IAdapterSpec(
        family="sdxl" if large else "sd1",
        kind=kind,
        picture_channels=_channels(folded, downscale),
        widths=tuple(widths),
        res_blocks=res_blocks,
        downscale=downscale,
    )


def _light_adapter(shapes: Shapes) -> T2IAdapterSpec:
    names = takewhile(shapes.__contains__, (f"body.{n}.out_conv.weight" for n in count()))
    widths = [_width(shapes, name) for name in names]
    inner = (
        "body.0.resnets.{}.block1.weight"
        if "body.0.resnets.0.block1.weight" in shapes
        else "body.0.body.{}.block1.weight"
    )
    res_blocks = sum(1 for _ in takewhile(shapes.__contains__, map(inner.format, count())))
    if len(widths) < 2 or widths[-1] != widths[-2]:
        raise StructureError(f"its blocks have {widths} channels; the last two should be the same")
    return T2IAdapterSpec(
        family="sd1",
        kind="light_adapter",
        picture_channels=_channels(_width(shapes, "body.0.in_conv.weight", 1), UNSHUFFLE),
        widths=tuple(widths[:-1]),
        res_blocks=res_blocks,
        downscale=UNSHUFFLE,
    )


def _channels(folded: int, downscale: int) -> int:
    channels, rest = divmod(folded, downscale**2)
    if rest or channels not in (1, 3):
        raise StructureError(
            f"its first convolution takes {folded} channels, neither 1 nor 3 for each of {downscale}^2 pixels"
        )
    return channels


def _width(shapes: Shapes, key: str, side: int = 0) -> int:
    if len(shape := shapes.get(key, ())) != 4:
        raise StructureError(f"{key!r} has the shape {list(shape)}, not 4 dimensions")
    return shape[side]
