"""What a control network's file is, from its header alone: which kind, for which family, and whether it is whole.

The layouts of ControlNets (their makers' and diffusers') give the same spec, and so do those of T2I adapters. Nothing here
reads weights or loads torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from ..checkpoints.completeness import check_tensors
from ..checkpoints.folders import read_component
from ..checkpoints.headers import Header, HeaderError, read_header
from ..checkpoints.parts import Part, find_part, find_shapes
from ..checkpoints.refusals import key_groups, refuse_others, refuse_strangers, unbuildable
from ..checkpoints.strangers import CONTROL_NET, T2I_ADAPTER, Stranger
from ..layouts.structure import StructureError
from .keymaps import control_origins
from .layout import control_layout
from .specs import ControlSpec
from .transformer_reading import read_transformer_control
from .unet_reading import read_control_net, read_t2i_adapter
from .unet_specs import ControlNetSpec

EXPECTED = "a control network"
CURE = "Name a ControlNet or a T2I adapter."


DIFFERENCE = "difference"  # the key by which such files are told


@dataclass(frozen=True, eq=False, slots=True)
class ControlDescription:
    """What a control network's file is, and where its tensors are."""

    path: Path
    spec: ControlSpec
    part: Part


def describe_control(path: Path | str) -> ControlDescription:
    """Returns what a control network is: a safetensors file, or a folder of diffusers. Raises HeaderError."""
    path = Path(path)
    component = read_component(path) if path.is_dir() else None
    headers = component.headers if component else (read_header(path),)
    config = component.config if component else {}
    if any(DIFFERENCE in header.tensors for header in headers):
        cure = "It is not supported: take the whole ControlNet of its kind, such as control_v11p_sd15_canny."
        raise HeaderError(path, "a ControlNet as its difference from a UNet", expected=EXPECTED, cure=cure)
    try:
        found = _find(headers, config, path.name if path.is_dir() else path.stem)
    except StructureError as error:
        raise unbuildable(path, error) from None
    if found is None:
        _refuse(path, headers)
    prefix, spec = found
    if not (isinstance(spec, ControlNetSpec) and spec.lora):  # what that lacks is in the network that it steers
        check_tensors(path, find_shapes(headers, prefix), control_layout(spec), partial(control_origins, spec))
    return ControlDescription(path, spec, find_part(headers, prefix))


def _find(headers: Sequence[Header], config: Mapping[str, Any], name: str) -> tuple[str, ControlSpec] | None:
    """Returns the prefix of a control network's keys, and its structure. Raises StructureError."""
    if (spec := read_transformer_control(headers, config, name)) is not None:
        return "", spec
    return read_control_net(headers, config, name) or read_t2i_adapter(headers)


def _refuse(path: Path, headers: Sequence[Header]) -> NoReturn:
    keys = [key for header in headers for key in header.tensors]
    refuse_strangers(path, headers, _UNSUPPORTED, expected=EXPECTED, cure=CURE)
    refuse_others(path, headers, [CONTROL_NET, T2I_ADAPTER], expected=EXPECTED, cure=CURE)
    raise HeaderError(path, key_groups(keys), expected=EXPECTED, cure=CURE)


_UNSUPPORTED = (
    Stranger(
        title="a ControlNet for a transformer of another kind than SD3's and FLUX.1's, or in an unknown layout",
        anywhere=("controlnet_blocks.0.",),
        cure="It is not supported; use one in diffusers' layout, Stability AI's for SD3.5 or XLabs' for FLUX.1.",
    ),
    Stranger(
        title="a T2I style adapter",
        anywhere=("style_embedding",),
        cure="It is not supported; use an adapter for sketches, depth or the like.",
    ),
)
