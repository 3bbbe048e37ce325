"""The structure of a UNet without text, read from shapes, and its tensors by name and shape, worked out from the structure.

Names are those of diffusers' UNet2DModel, or LDM's. This module loads no torch and reads no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import count, takewhile
from typing import Any

from ..families.plain_unets import PlainUNetSpec
from .layout import Entry, conv, dense, norm, res
from .structure import Shapes, StructureError, grid_of, shape_of

_GROWING = [
    (i, name) for i in (1, 2) for name in ("conv.weight", "in_layers.2.weight")
]  # behind a res block, and attention


def read_plain_unet(shapes: Shapes) -> PlainUNetSpec:
    """Returns a UNet's structure but for its attention heads, which shapes do not tell. Raises StructureError."""
    return _read_ldm(shapes) if "input_blocks.0.0.weight" in shapes else _read_diffusers(shapes)


def complete_plain_unet(
    spec: PlainUNetSpec, *, head_count: int | None, head_width: int, config: Mapping[str, Any]
) -> PlainUNetSpec:
    """Returns the structure with its heads: of the width that a diffusers config says, else as many, or of a width."""
    said = config.get("attention_head_dim")
    if isinstance(said, int) and said > 0:
        head_count, head_width = None, said
    heads = (max(1, width // head_width) if head_count is None else head_count for width in spec.widths)
    return replace(spec, heads=tuple(heads))


@cache
def plain_unet_layout(spec: PlainUNetSpec) -> Shapes:
    """Returns the shape of each tensor of diffusers' UNet2DModel of this structure."""
    return dict(_layout(spec))


def _read_ldm(shapes: Shapes) -> PlainUNetSpec:
    """How many blocks a level has is told by the way up, where each level but the outermost ends by growing.

    On the way down a res block that shrinks looks like any other.
    """
    outputs = _numbers(shapes, "output_blocks.{}.0.in_layers.2.weight")
    grows = [m for m in outputs if any(f"output_blocks.{m}.{i}.{name}" in shapes for i, name in _GROWING)]
    inputs = len(_numbers(shapes, "input_blocks.{}.0.in_layers.2.weight", "input_blocks.{}.0.op.weight", first=1))
    blocks, levels = grows[0] if grows else 0, len(grows) + 1
    if len(outputs) != levels * (blocks + 1) or inputs != len(outputs) - 1 or not blocks:
        raise StructureError(f"the UNet has {inputs} input and {len(outputs)} output blocks, of which {grows} grow")
    firsts = [1 + level * (blocks + 1) for level in range(levels)]
    widths = tuple(shape_of(shapes, f"input_blocks.{n}.0.in_layers.2.weight", 4)[0] for n in firsts)
    return PlainUNetSpec(
        in_channels=shape_of(shapes, "input_blocks.0.0.weight", 4)[1],
        out_channels=shape_of(shapes, "out.2.weight", 4)[0],
        widths=widths,
        blocks=blocks,
        attention=tuple(f"input_blocks.{n}.1.qkv.weight" in shapes for n in firsts),
        scale_shift=shape_of(shapes, "input_blocks.1.0.emb_layers.1.weight", 2)[0] == 2 * widths[0],
        resampling="conv" if f"input_blocks.{blocks + 1}.0.op.weight" in shapes else "resnet",
    )


def _read_diffusers(shapes: Shapes) -> PlainUNetSpec:
    grid = grid_of(shapes, "down_blocks.{}.resnets.{}.conv1.weight")
    if not grid or len({len(level) for level in grid}) != 1:
        raise StructureError(f"the UNet's levels have {[len(level) for level in grid]} res blocks, not all the same")
    widths = tuple(shape_of(shapes, level[0], 4)[0] for level in grid)
    return PlainUNetSpec(
        in_channels=shape_of(shapes, "conv_in.weight", 4)[1],
        out_channels=shape_of(shapes, "conv_out.weight", 4)[0],
        widths=widths,
        blocks=len(grid[0]),
        attention=tuple(f"down_blocks.{x}.attentions.0.group_norm.weight" in shapes for x in range(len(grid))),
        scale_shift=shape_of(shapes, "down_blocks.0.resnets.0.time_emb_proj.weight", 2)[0] == 2 * widths[0],
        resampling="resnet" if "down_blocks.0.downsamplers.0.conv1.weight" in shapes else "conv",
    )


def _numbers(shapes: Shapes, *templates: str, first: int = 0) -> list[int]:
    """Returns the numbers, from the first on, with which one of the templates is a name that is present."""
    return list(takewhile(lambda n: any(name.format(n) in shapes for name in templates), count(first)))


def _layout(spec: PlainUNetSpec) -> Iterator[Entry]:
    first, time = spec.widths[0], 4 * spec.widths[0]
    yield from conv("conv_in", first, spec.in_channels)
    yield from dense("time_embedding.linear_1", time, first)
    yield from dense("time_embedding.linear_2", time, time)
    width, skips = first, [first]
    for x, (out, attends) in enumerate(zip(spec.widths, spec.attention, strict=True)):
        for i in range(spec.blocks):
            yield from _block(f"down_blocks.{x}", i, out, width, attends, spec)
            width = out
            skips.append(width)
        if x < len(spec.widths) - 1:
            yield from _resampling(f"down_blocks.{x}.downsamplers.0", width, spec)
            skips.append(width)
    for i in (0, 1):
        yield from res(f"mid_block.resnets.{i}", width, width, time, scale_shift=spec.scale_shift)
    yield from _attention("mid_block.attentions.0", width)
    for y, (out, attends) in enumerate(zip(reversed(spec.widths), reversed(spec.attention), strict=True)):
        for i in range(spec.blocks + 1):
            yield from _block(f"up_blocks.{y}", i, out, width + skips.pop(), attends, spec)
            width = out
        if y < len(spec.widths) - 1:
            yield from _resampling(f"up_blocks.{y}.upsamplers.0", width, spec)
    yield from norm("conv_norm_out", width)
    yield from conv("conv_out", spec.out_channels, width)


def _block(level: str, i: int, out: int, into: int, attends: bool, spec: PlainUNetSpec) -> Iterator[Entry]:
    yield from res(f"{level}.resnets.{i}", out, into, 4 * spec.widths[0], scale_shift=spec.scale_shift)
    if attends:
        yield from _attention(f"{level}.attentions.{i}", out)


def _attention(name: str, width: int) -> Iterator[Entry]:
    yield from norm(f"{name}.group_norm", width)
    for projection in ("to_q", "to_k", "to_v", "to_out.0"):
        yield from dense(f"{name}.{projection}", width, width)


def _resampling(name: str, width: int, spec: PlainUNetSpec) -> Iterator[Entry]:
    if spec.resampling == "conv":
        yield from conv(f"{name}.conv", width, width)
    else:
        yield from res(name, width, width, 4 * spec.widths[0], scale_shift=spec.scale_shift)
