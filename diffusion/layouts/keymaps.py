"""How the tensors of LDM's and OpenCLIP's layouts are named in diffusers' and transformers'.

A map says, for each tensor that a network wants, where in the file it is; it is made from the network's structure and
is strict: whatever is missing, or in the file and in no map, is an error. Autoencoders have theirs in `autoencoder_keys`.
This module loads no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..families.specs import UNetSpec
from .scales import is_companion

IGNORED_NAMES = (
    "position_ids",  # a buffer of older transformers: 0, 1, 2, ...
    "logit_scale",  # CLIP's contrastive temperature, no part of the text model
    "attn_mask",  # OpenCLIP's causal mask
)
IGNORED_PREFIXES = (
    "loss.",  # the discriminator that an LDM autoencoder was trained with
    "model_ema.",  # the averaged copy of a training run
)

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # diffusers before 0.14
_QKV = ("q_proj", "k_proj", "v_proj")  # in the order in which OpenCLIP stacks them


class KeyMapError(ValueError):
    """A file lacks tensors of its network, or has tensors that the network does not take."""


Rows = tuple[tuple[int, int], ...]
"""Ranges of a tensor's rows, from the first to before the second, in the order in which they are stacked."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a wanted tensor comes from: a key of the file, a third of its rows, some of its rows, or its transpose."""

    key: str
    third: int | None = None
    rows: Rows | None = None
    transposed: bool = False


Origins = Mapping[str, Origin]


def unet_origins(spec: UNetSpec, wanted: Iterable[str], present: Collection[str]) -> Origins:
    """Returns the origin of each tensor of diffusers' UNet, in an LDM or a diffusers file. Raises KeyMapError."""
    modules = dict(unet_modules(spec)) if "input_blocks.0.0.weight" in present else {}
    return check_origins({key: Origin(rename(key, modules)) for key in wanted}, present)


@dataclass(frozen=True, slots=True)
class Destination:
    """A tensor of a single file: the network's tensors that it holds, stacked, or transposed.

    kernel: as a 1x1 convolution. rows: which of its rows each tensor fills, where they do not lie one after the other.
    """

    key: str
    names: tuple[str, ...]
    transposed: bool = False
    kernel: bool = False
    rows: tuple[Rows, ...] = ()


def unet_destinations(spec: UNetSpec, names: Iterable[str]) -> list[Destination]:
    """Returns where the tensors of diffusers' UNet go in an LDM file."""
    modules = dict(unet_modules(spec))
    return [Destination(rename(name, modules), (name,)) for name in names]


def turned_around(origins: Origins) -> list[Destination]:
    """Returns where a network's tensors go in a file, from where they would come from in it."""
    held: dict[str, list[tuple[int, str]]] = {}
    for name, origin in origins.items():
        place = origin.rows[0][0] if origin.rows else origin.third or 0
        held.setdefault(origin.key, []).append((place, name))
    destinations = []
    for key, parts in held.items():
        names = tuple(name for _, name in sorted(parts))
        rows = tuple(origins[name].rows or () for name in names)
        scattered = any(len(each) > 1 for each in rows)
        transposed = origins[names[0]].transposed
        destinations.append(Destination(key, names, transposed=transposed, rows=rows if scattered else ()))
    return destinations


def unet_modules(spec: UNetSpec) -> Iterator[tuple[str, str]]:
    """Yields (diffusers, LDM) names of modules; below a pair of modules the names agree."""
    yield from (("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2"))
    yield from (("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"))
    for vector in ("add_embedding", "class_embedding"):  # of text, of pictures
        yield from ((f"{vector}.linear_1", "label_emb.0.0"), (f"{vector}.linear_2", "label_emb.0.2"))
    yield "class_embedding", "label_emb"  # a table of noise levels
    for i in (0, 1):
        yield from resnet_modules(f"mid_block.resnets.{i}", f"middle_block.{2 * i}")
    yield "mid_block.attentions.0", "middle_block.1"
    n = 1  # the next input block
    for x, blocks in enumerate(spec.res_blocks):
        for i in range(blocks):
            yield from resnet_modules(f"down_blocks.{x}.resnets.{i}", f"input_blocks.{n}.0")
            yield f"down_blocks.{x}.attentions.{i}", f"input_blocks.{n}.1"
            n += 1
        yield f"down_blocks.{x}.downsamplers.0.conv", f"input_blocks.{n}.0.op"
        n += 1
    m = 0  # the next output block
    for y, depths in enumerate(spec.depths_out):
        for i in range(len(depths)):
            yield from resnet_modules(f"up_blocks.{y}.resnets.{i}", f"output_blocks.{m}.0")
            yield f"up_blocks.{y}.attentions.{i}", f"output_blocks.{m}.1"
            m += 1
        yield f"up_blocks.{y}.upsamplers.0.conv", f"output_blocks.{m - 1}.{2 if depths[-1] else 1}.conv"


def rename(key: str, modules: Mapping[str, str]) -> str:
    """Returns a tensor's name with its module renamed: the innermost module that the map knows."""
    parts = key.split(".")
    for n in range(len(parts), 0, -1):
        module = ".".join(parts[:n])
        if module in modules:
            return ".".join([modules[module], *parts[n:]])
    return key


def check_origins(origins: dict[str, Origin], present: Collection[str]) -> Origins:
    """Returns the origins, once each is present and every tensor that is present has its use."""
    used = {origin.key for origin in origins.values()}
    missing = sorted(used - set(present))
    unknown = sorted(key for key in set(present) - used if not is_ignored(key))
    if missing or unknown:
        flaws = [
            f"{len(keys)} {what} ({_some(keys)})" for keys, what in ((missing, "missing"), (unknown, "unknown")) if keys
        ]
        raise KeyMapError(f"tensors do not fit the network: {' and '.join(flaws)}")
    return origins


def old_attention_name(key: str, present: Collection[str]) -> str:
    """Returns the name of a tensor in diffusers' layout: that of old versions where the file has no other."""
    if key in present:
        return key
    for ours, theirs in _OLD_ATTENTION.items():
        if f".{ours}." in key and (old := key.replace(f".{ours}.", f".{theirs}.")) in present:
            return old
    return key


def resnet_modules(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    """Yields (diffusers, LDM) names of the modules of a res block."""
    for inner, ldm in _RESNET.items():
        yield f"{ours}.{inner}", f"{theirs}.{ldm}"


def open_clip_block_origin(key: str) -> Origin:
    """Returns where OpenCLIP keeps a tensor of a transformer block, which transformers calls `encoder.layers.N....`."""
    module, _, leaf = key.removeprefix("encoder.layers.").rpartition(".")
    n, _, module = module.partition(".")
    block, projection = f"transformer.resblocks.{n}", module.removeprefix("self_attn.")
    if projection in _QKV:
        return Origin(f"{block}.attn.in_proj_{leaf}", third=_QKV.index(projection))
    return Origin(f"{block}.{_OPEN_CLIP_LAYER[module]}.{leaf}")


def is_ignored(key: str) -> bool:
    """Returns whether a file may hold this tensor though no network takes it."""
    return key.rpartition(".")[2] in IGNORED_NAMES or key.startswith(IGNORED_PREFIXES) or is_companion(key)


def _some(keys: list[str], most: int = 5) -> str:
    return ", ".join(keys[:most]) + (", ..." if len(keys) > most else "")
