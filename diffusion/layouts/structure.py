"""The structure of a network, read from the names and shapes of its tensors.

The layouts of a UNet, LDM's and diffusers', give the same spec; `autoencoder_structure` reads autoencoders and `text_structure`
text encoders. Nothing here knows families, reads files or loads torch; `shapes` are keys without any prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count, islice, repeat, takewhile

from ..families.specs import UNetSpec

Shapes = Mapping[str, tuple[int, ...]]


_NOISE_LEVELS = ("label_emb.weight", "class_embedding.weight")  # LDM's name of the table, and diffusers'


class StructureError(ValueError):
    """The tensors do not make up a network of the layout that their names promise."""


def read_unet(shapes: Shapes) -> UNetSpec:
    """Returns a UNet's structure but for its attention heads, which shapes do not tell. Raises StructureError."""
    names = _ldm_unet(shapes) if "input_blocks.0.0.weight" in shapes else _diffusers_unet(shapes)
    attentions = [block.attention for level in names.down for block in level]
    attention = next((name for name in [*attentions, names.middle] if _depth(shapes, name)), None)
    if attention is None:
        raise StructureError("the UNet has no level with cross-attention")
    width, in_channels = shape_of(shapes, names.conv_in, 4)[:2]
    widths = tuple(shape_of(shapes, level[-1].conv, 4)[0] for level in names.down)
    if widths[0] != width:
        raise StructureError(f"{names.conv_in!r} gives {width} channels, but the first level has {widths[0]}")
    vector = shapes.get(names.vector)
    table = next((shapes[name] for name in _NOISE_LEVELS if name in shapes), None)
    text_alone = tuple(any(_attends_to_text_alone(shapes, block.attention) for block in level) for level in names.down)
    return UNetSpec(
        in_channels=in_channels,
        out_channels=shape_of(shapes, names.conv_out, 4)[0],
        widths=widths,
        res_blocks=tuple(len(level) for level in names.down),
        depths_in=tuple(tuple(_depth(shapes, block.attention) for block in level) for level in names.down),
        depths_out=tuple(tuple(_depth(shapes, block.attention) for block in level) for level in names.up),
        depth_middle=_depth(shapes, names.middle) if names.has_middle else None,
        heads=(),
        context_width=shape_of(shapes, f"{attention}.transformer_blocks.0.attn2.to_k.weight", 2)[1],
        linear_projection=len(shape_of(shapes, f"{attention}.proj_in.weight")) == 2,
        vector_width=vector[1] if vector else None,
        text_alone=text_alone if any(text_alone) else (),
        noise_levels=table[0] if table else None,
    )


def read_encoder(shapes: Shapes) -> UNetSpec:
    """Returns the structure of a UNet that ends behind its middle, as ControlNets copy one. Raises StructureError.

    It has no way up and no output, and a context_width of 0 if it does not attend; its heads are not told.
    """
    names = _ldm_unet(shapes) if "input_blocks.0.0.weight" in shapes else _diffusers_unet(shapes)
    attentions = [block.attention for level in names.down for block in level]
    attention = next((name for name in [*attentions, names.middle] if _depth(shapes, name)), None)
    if not all(names.down):
        raise StructureError("a level has no res blocks")
    vector = shapes.get(names.vector)
    return UNetSpec(
        in_channels=shape_of(shapes, names.conv_in, 4)[1],
        out_channels=0,
        widths=tuple(shape_of(shapes, level[-1].conv, 4)[0] for level in names.down),
        res_blocks=tuple(len(level) for level in names.down),
        depths_in=tuple(tuple(_depth(shapes, block.attention) for block in level) for level in names.down),
        depths_out=(),
        depth_middle=_depth(shapes, names.middle) if names.has_middle else None,
        heads=(),
        context_width=shape_of(shapes, f"{attention}.transformer_blocks.0.attn2.to_k.weight", 2)[1] if attention else 0,
        linear_projection=attention is not None and len(shape_of(shapes, f"{attention}.proj_in.weight")) == 2,
        vector_width=vector[1] if vector else None,
    )


def with_heads(spec: UNetSpec, *, head_count: int | None, head_width: int) -> UNetSpec:
    """Returns the spec with the attention heads of each level: a fixed number, or else of a fixed width."""
    heads = (max(1, width // head_width) if head_count is None else head_count for width in spec.widths)
    return replace(spec, heads=tuple(heads))


def last_attention(shapes: Shapes) -> str:
    """Returns the prefix of the last spatial transformer that a UNet executes."""
    names = _ldm_unet(shapes) if "input_blocks.0.0.weight" in shapes else _diffusers_unet(shapes)
    attentions = [block.attention for level in names.up for block in level if _depth(shapes, block.attention)]
    return attentions[-1] if attentions else names.middle


def shape_of(shapes: Shapes, key: str, dimensions: int | None = None) -> tuple[int, ...]:
    """Returns the shape of a tensor. Raises StructureError if it is missing or has another number of dimensions."""
    if key not in shapes:
        raise StructureError(f"{key!r} is missing")
    shape = shapes[key]
    if dimensions is not None and len(shape) != dimensions:
        raise StructureError(f"{key!r} has the shape {list(shape)}, not {dimensions} dimensions")
    return shape


@dataclass(frozen=True, slots=True)
class _Block:
    """One res block: the key of its first convolution's weight, and where its attention would be."""

    conv: str
    attention: str


@dataclass(frozen=True, slots=True)
class _UNetNames:
    conv_in: str
    conv_out: str
    vector: str
    down: list[list[_Block]]  # by level, outermost first
    up: list[list[_Block]]  # by level, innermost first: in order of execution
    middle: str
    has_middle: bool


def _ldm_unet(shapes: Shapes) -> _UNetNames:
    down: list[list[_Block]] = [[]]
    for n in count(1):
        if f"input_blocks.{n}.0.op.weight" in shapes:
            down.append([])
        elif (conv := f"input_blocks.{n}.0.in_layers.2.weight") in shapes:
            down[-1].append(_Block(conv, f"input_blocks.{n}.1"))
        else:
            break
    blocks = (_Block(f"output_blocks.{m}.0.in_layers.2.weight", f"output_blocks.{m}.1") for m in count())
    return _UNetNames(
        conv_in="input_blocks.0.0.weight",
        conv_out="out.2.weight",
        vector="label_emb.0.0.weight",
        down=down,
        up=[list(islice(blocks, len(level) + 1)) for level in reversed(down)],
        middle="middle_block.1",
        has_middle="middle_block.0.in_layers.2.weight" in shapes,
    )


def _diffusers_unet(shapes: Shapes) -> _UNetNames:
    def blocks(side: str) -> list[list[_Block]]:
        grid = grid_of(shapes, side + "_blocks.{}.resnets.{}.conv1.weight")
        return [
            [_Block(conv, f"{side}_blocks.{x}.attentions.{i}") for i, conv in enumerate(level)]
            for x, level in enumerate(grid)
        ]

    vectors = ("add_embedding.linear_1.weight", "class_embedding.linear_1.weight")
    return _UNetNames(
        conv_in="conv_in.weight",
        conv_out="conv_out.weight",
        vector=next((name for name in vectors if name in shapes), vectors[0]),
        down=blocks("down"),
        up=blocks("up"),
        middle="mid_block.attentions.0",
        has_middle="mid_block.resnets.0.conv1.weight" in shapes,
    )


def grid_of(shapes: Shapes, template: str) -> list[list[str]]:
    """Returns the names that are present when the template counts levels, then the blocks of a level, from zero."""
    levels = (list(takewhile(shapes.__contains__, map(template.format, repeat(x), count()))) for x in count())
    return list(takewhile(bool, levels))


def _depth(shapes: Shapes, attention: str) -> int:
    """Returns how many transformer blocks a spatial transformer has, 0 for none."""
    template = attention + ".transformer_blocks.{}.attn1.to_q.weight"
    return sum(1 for _ in takewhile(shapes.__contains__, map(template.format, count())))


def _attends_to_text_alone(shapes: Shapes, attention: str) -> bool:
    """Returns whether the first attention of a block reads text in place of the picture, as its keys' width shows.

    Where text is as wide as the level, shapes do not tell, and it reads the picture.
    """
    queries, keys = (shapes.get(f"{attention}.transformer_blocks.0.attn1.to_{name}.weight") for name in "qk")
    return queries is not None and keys is not None and queries != keys
