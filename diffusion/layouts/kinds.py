"""The kinds of denoising network: for each, how its structure is read, its tensors named and its parameters listed.

A kind is a row of `KINDS`, found by the name that its spec carries; `networks.building` builds it and `sampling.calls` calls
it. A further architecture is a spec, a row here and one in each of those. This module loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..families.dit_specs import Flux2Spec, FluxSpec, MMDiTSpec
from ..families.plain_unets import PlainUNetSpec
from ..families.specs import DenoiserSpec, Family, NetworkKind, UNetSpec
from .dit_keymaps import (
    flux2_destinations,
    flux2_origins,
    flux_destinations,
    flux_origins,
    mmdit_destinations,
    mmdit_origins,
)
from .dit_layout import flux2_layout, flux_layout, mmdit_layout, mmdit_tables
from .dit_structure import read_flux, read_flux2, read_mmdit, with_axes
from .keymaps import Destination, Origins, unet_destinations, unet_origins
from .layout import unet_layout
from .plain_unet_keys import plain_unet_destinations, plain_unet_origins
from .plain_unet_structure import complete_plain_unet, plain_unet_layout, read_plain_unet
from .structure import Shapes, read_unet, with_heads

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """What is known of a kind of network without building one. title: for people.

    read: shapes -> spec, as far as shapes tell; complete: what the family or a diffusers config, which may be empty, add to it.
    origins: (spec, wanted, present) -> where each tensor of diffusers' class is in a file; destinations: (spec, names) -> where
    it goes in one of the layout that the kind was first published in. layout: spec -> its parameters' shapes by name; tables:
    the same of what files hold beside them.
    """

    title: str
    read: Callable[[Shapes], Any]
    complete: Callable[[Any, Family, Config], Any]
    origins: Callable[[Any, Iterable[str], Collection[str]], Origins]
    destinations: Callable[[Any, Iterable[str]], list[Destination]]
    layout: Callable[[Any], Shapes]
    tables: Callable[[Any], Shapes] = lambda spec: {}


def kind_of(spec: DenoiserSpec) -> Kind:
    """Returns the kind of a network."""
    return KINDS[spec.kind]


def _complete_unet(spec: UNetSpec, family: Family, config: Config) -> UNetSpec:
    """Adds what a diffusers config says.

    diffusers' attention_head_dim is the number of heads where num_attention_heads is not given: its configurations
    named it wrongly, and it keeps to that.
    """
    heads = config.get("num_attention_heads") or config.get("attention_head_dim")
    if isinstance(heads, int):
        heads = [heads] * len(spec.widths)
    if (
        isinstance(heads, list)
        and len(heads) == len(spec.widths)
        and all(isinstance(head, int) and head for head in heads)
    ):
        spec = replace(spec, heads=tuple(heads))
    size_width = config.get("addition_time_embed_dim")
    if isinstance(size_width, int):
        spec = replace(spec, size_width=size_width)
    spec = replace(spec, vector=family.vector)
    return spec if spec.heads else with_heads(spec, head_count=family.head_count, head_width=family.head_width)


def _complete_plain_unet(spec: PlainUNetSpec, family: Family, config: Config) -> PlainUNetSpec:
    return complete_plain_unet(spec, head_count=family.head_count, head_width=family.head_width, config=config)


def _as_read(spec: MMDiTSpec, family: Family, config: Config) -> MMDiTSpec:
    return spec


def _complete_flux(spec: FluxSpec, family: Family, config: Config) -> FluxSpec:
    return with_axes(spec, config)


def _complete_flux2(spec: Flux2Spec, family: Family, config: Config) -> Flux2Spec:
    return with_axes(spec, config)


KINDS: Mapping[NetworkKind, Kind] = {
    "unet": Kind("UNet", read_unet, _complete_unet, unet_origins, unet_destinations, unet_layout),
    "plain_unet": Kind(
        "UNet without text",
        read_plain_unet,
        _complete_plain_unet,
        plain_unet_origins,
        plain_unet_destinations,
        plain_unet_layout,
    ),
    "mmdit": Kind("transformer", read_mmdit, _as_read, mmdit_origins, mmdit_destinations, mmdit_layout, mmdit_tables),
    "flux": Kind("transformer", read_flux, _complete_flux, flux_origins, flux_destinations, flux_layout),
    "flux2": Kind("transformer", read_flux2, _complete_flux2, flux2_origins, flux2_destinations, flux2_layout),
}
