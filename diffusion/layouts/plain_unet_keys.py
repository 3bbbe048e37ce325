"""How the tensors of UNets without text are named in LDM's layout and in diffusers'; strict, as in `keymaps`.

LDM holds an attention's queries, keys and values as one convolution `qkv`, a head after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from ..families.plain_unets import PlainUNetSpec
from .keymaps import (
    Destination,
    Origin,
    Origins,
    check_origins,
    old_attention_name,
    rename,
    resnet_modules,
    turned_around,
)

_QKV = ("to_q", "to_k", "to_v")


def plain_unet_origins(spec: PlainUNetSpec, wanted: Iterable[str], present: Collection[str]) -> Origins:
    """Returns the origin of each tensor of diffusers' UNet2DModel, in an LDM or a diffusers file. Raises KeyMapError."""
    if "input_blocks.0.0.weight" in present:
        return check_origins(_ldm_origins(spec, wanted), present)
    return check_origins({key: Origin(old_attention_name(key, present)) for key in wanted}, present)


def plain_unet_destinations(spec: PlainUNetSpec, names: Iterable[str]) -> list[Destination]:
    """Returns where the tensors of diffusers' UNet2DModel go in an LDM file."""
    return turned_around(_ldm_origins(spec, names))


def _ldm_origins(spec: PlainUNetSpec, wanted: Iterable[str]) -> dict[str, Origin]:
    modules, heads = dict(_modules(spec)), dict(_heads(spec))
    return {key: _origin(key, modules, heads) for key in wanted}


def _origin(key: str, modules: Mapping[str, str], heads: Mapping[str, tuple[int, int]]) -> Origin:
    module, _, leaf = key.rpartition(".")
    attention, _, projection = module.rpartition(".")
    if projection not in _QKV:
        return Origin(rename(key, modules))
    count, width = heads[attention]  # of a head
    third = _QKV.index(projection)
    starts = ((3 * head + third) * width for head in range(count))
    return Origin(f"{modules[attention]}.qkv.{leaf}", rows=tuple((start, start + width) for start in starts))


def _heads(spec: PlainUNetSpec) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yields for each attention how many heads it has, and how wide they are."""
    levels = len(spec.widths)
    for x, (width, heads) in enumerate(zip(spec.widths, spec.heads, strict=True)):
        for i in range(spec.blocks + 1):
            for name in (f"down_blocks.{x}", f"up_blocks.{levels - 1 - x}"):
                yield f"{name}.attentions.{i}", (heads, width // heads)
    yield "mid_block.attentions.0", (spec.heads[-1], spec.widths[-1] // spec.heads[-1])


def _modules(spec: PlainUNetSpec) -> Iterator[tuple[str, str]]:
    """Yields (diffusers, LDM) names of modules; below a pair of modules the names agree."""
    yield from (("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2"))
    yield from (("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"))
    for i in (0, 1):
        yield from resnet_modules(f"mid_block.resnets.{i}", f"middle_block.{2 * i}")
    yield from _attention("mid_block.attentions.0", "middle_block.1")
    levels = len(spec.widths)
    for x, attends in enumerate(spec.attention):
        n, m = x * (spec.blocks + 1) + 1, (levels - 1 - x) * (spec.blocks + 1)
        down, up = f"down_blocks.{x}", f"up_blocks.{levels - 1 - x}"
        for i in range(spec.blocks + 1):
            for ours, theirs in ((down, f"input_blocks.{n + i}"), (up, f"output_blocks.{m + i}")):
                yield from resnet_modules(f"{ours}.resnets.{i}", f"{theirs}.0")
                yield from _attention(f"{ours}.attentions.{i}", f"{theirs}.1")
        grown = f"output_blocks.{m + spec.blocks}.{2 if attends else 1}"
        if spec.resampling == "conv":
            yield f"{down}.downsamplers.0.conv", f"input_blocks.{n + spec.blocks}.0.op"
            yield f"{up}.upsamplers.0", grown
        else:
            yield from resnet_modules(f"{down}.downsamplers.0", f"input_blocks.{n + spec.blocks}.0")
            yield from resnet_modules(f"{up}.upsamplers.0", grown)


def _attention(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield ours, theirs
    yield f"{ours}.group_norm", f"{theirs}.norm"
    yield f"{ours}.to_out.0", f"{theirs}.proj_out"
