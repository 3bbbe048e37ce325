"""Where the changes of an adapter go: which modules and tensors of a network the names in a file stand for. Loads no torch.

A name that its network's makers gave may stand for several of diffusers' modules, of which the makers have one matrix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from typing import NamedTuple

from ..families.specs import DenoiserSpec
from ..families.text_joins import ClipSpec
from ..layouts.keymaps import Rows
from ..layouts.kinds import kind_of
from ..layouts.layout import modules_of
from ..layouts.text_layout import text_layout
from .keys import KEYED_NAMINGS, NETWORK_NAMINGS, TEXT_NAMINGS, Form

NetworkSpec = DenoiserSpec | ClipSpec
FIRST_WEIGHTS = ("conv_in.weight", "x_embedder.weight")
"""Of a network's first layer, which has more columns where the network takes more channels, as for inpainting."""

UNET = "unet"
"""What a target's network is called if it is the denoising one; text encoders go by their keys."""


class Target(NamedTuple):
    """A tensor of a network; `network` is "unet" or the key of a text encoder."""

    network: str
    tensor: str


@dataclass(frozen=True, slots=True)
class Share:
    """What of a change to a matrix that joins several is for one of them: ranges of its `total` rows."""

    rows: Rows
    total: int


class Place(NamedTuple):
    """A module of a network that a name in an adapter stands for; share: what of the named module it is, if not all."""

    network: str
    module: str
    share: Share | None = None

    def target(self, form: Form) -> Target:
        """Returns the tensor that a change of this form is made to."""
        return Target(self.network, f"{self.module}.{form.leaf}")


@cache
def target_shapes(spec: NetworkSpec) -> Mapping[Target, tuple[int, ...]]:
    """Returns the shape of every tensor of a network that an adapter may change."""
    if not isinstance(spec, ClipSpec):
        return {Target(UNET, name): shape for name, shape in kind_of(spec).layout(spec).items()}
    return {
        Target(encoder.key, name): shape for encoder in spec.encoders for name, shape in text_layout(encoder).items()
    }


@cache
def places_of(spec: NetworkSpec) -> Mapping[str, tuple[Place, ...]]:
    """Returns what each name of a module in an adapter stands for: modules of the network, several where it joins them."""
    if not isinstance(spec, ClipSpec):
        ours: dict[str, tuple[Place, ...]] = {
            module: (Place(UNET, module),) for module in modules_of(kind_of(spec).layout(spec))
        }
        makers = _makers_places(spec)
        paths = {"ours": ours, "makers": makers}
        return _xlabs_places(makers) | {
            naming.name(path): places
            for naming in reversed(NETWORK_NAMINGS)  # the first to name a module keeps it
            for path, places in paths[naming.layout].items()
        }
    return {
        naming.name(path).replace("{key}", encoder.key): (Place(encoder.key, module),)
        for place, slot in enumerate(spec.join.order)
        if (encoder := spec.encoder(slot.key)) is not None
        for naming in (*TEXT_NAMINGS[place], *KEYED_NAMINGS.get(encoder.key, ()))
        for module in modules_of(text_layout(encoder))
        for path in (module, f"text_model.{module}")
    }


def _makers_places(spec: DenoiserSpec) -> dict[str, tuple[Place, ...]]:
    """Returns the modules by the names that their makers gave them."""
    shapes = kind_of(spec).layout(spec)
    places = {}
    for held in kind_of(spec).destinations(spec, shapes):
        ends = list(accumulate((shapes[name][0] for name in held.names), initial=0))
        rows = held.rows or [((start, stop),) for start, stop in pairwise(ends)]
        joined = bool(held.rows) or len(held.names) > 1
        places[held.key.rpartition(".")[0]] = tuple(
            Place(UNET, name.rpartition(".")[0], Share(each, ends[-1]) if joined else None)
            for name, each in zip(held.names, rows, strict=True)
        )
    return places


_XLABS_STREAMS = {"img": 1, "txt": 2}
_DOUBLE_ATTENTION = re.compile(r"(double_blocks\.\d+)\.(img|txt)_attn\.(qkv|proj)")
_SINGLE_MATRIX = re.compile(r"(single_blocks\.\d+)\.linear([12])")


def _xlabs_places(makers: Mapping[str, tuple[Place, ...]]) -> dict[str, tuple[Place, ...]]:
    """Returns the modules that XLabs' attention processors change, by their names (XLabs-AI/x-flux, modules/layers.py).

    Of what a single block joins, they change queries, keys and values alone.
    """
    places = {}
    for path, parts in makers.items():
        if double := _DOUBLE_ATTENTION.fullmatch(path):
            block, stream, matrix = double.groups()
            places[f"{block}.processor.{matrix}_lora{_XLABS_STREAMS[stream]}"] = parts
        elif (single := _SINGLE_MATRIX.fullmatch(path)) and single[2] == "2":
            places[f"{single[1]}.processor.proj"] = parts
        elif single and len(parts) > 3:
            attention = [(part, part.share.rows) for part in parts[:3] if part.share]
            total = max(stop for _, rows in attention for _, stop in rows)
            places[f"{single[1]}.processor.qkv"] = tuple(
                part._replace(share=Share(rows, total)) for part, rows in attention
            )
    return places
