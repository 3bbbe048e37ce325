"""What a vision tower in a file is, and where its tensors are. This module loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..families.vision import ClipVisionSpec
from ..layouts.structure import StructureError
from ..layouts.vision_keys import LAYOUTS, is_beside
from ..layouts.vision_structure import configured, read_vision
from .folders import INDEX, read_component, read_folder
from .headers import Header, HeaderError, read_header
from .parts import Part, find_part, find_shapes
from .recognise import network_prefix
from .refusals import refuse_strangers
from .remembering import remembered
from .strangers import IMPOSTORS, PARTS, VISION, without_cures

PREFIXES = ("", "visual.", "embedder.model.visual.")  # the last one is SD 2.1 unCLIP's
FOLDER = "image_encoder"  # of a diffusers folder


@dataclass(frozen=True, slots=True)
class VisionDescription:
    """What a vision tower is, and where its tensors are."""

    path: Path
    spec: ClipVisionSpec
    part: Part


@remembered
def describe_vision(path: Path | str) -> VisionDescription:
    """Returns what a vision tower is: a file of one or of a whole CLIP model, an unCLIP checkpoint's, or a folder's.

    Raises HeaderError.
    """
    path = Path(path)
    headers, config = _located(path)
    prefix = vision_prefix(key for header in headers for key in header.tensors)
    if prefix is None:
        _refuse(path, headers)
    return describe_vision_part(path, headers, prefix, config)


def describe_vision_part(
    path: Path, headers: Sequence[Header], prefix: str, config: Mapping[str, Any] | None = None
) -> VisionDescription:
    """Returns what the vision tower below a prefix is. config: transformers', where a folder has one. Raises HeaderError."""
    shapes = {key: shape for key, shape in find_shapes(headers, prefix).items() if not is_beside(key)}
    try:
        spec = configured(read_vision(shapes), config or {})
    except StructureError as error:
        found = f"a vision model that can't be built: {error}"
        raise HeaderError(path, found, expected="a whole network", cure="Get it again.") from None
    return VisionDescription(path, spec, find_part(headers, prefix, shapes))


def vision_prefix(keys: Iterable[str]) -> str | None:
    """Returns the prefix below which a file keeps a vision tower, or None if it has none."""
    present = set(keys)
    return next((prefix for prefix in PREFIXES for names in LAYOUTS if prefix + names.patches in present), None)


def _located(path: Path) -> tuple[Sequence[Header], Mapping[str, Any]]:
    if path.is_file():
        return [read_header(path)], {}
    if not (path / INDEX).is_file():
        component = read_component(path)
        return component.headers, component.config
    found = read_folder(path).components.get(FOLDER)
    if found is None:
        raise HeaderError(path, f"a folder without {FOLDER}/", expected="a vision model", cure="Name a file of one.")
    return found.headers, found.config


def _refuse(path: Path, headers: Sequence[Header]) -> NoReturn:
    cure = "Name a CLIP vision or SigLIP model, such as clip_vision_h.safetensors."
    keys = [key for header in headers for key in header.tensors]
    if network_prefix(keys) is None:
        kinds = without_cures(kind for kind in (*IMPOSTORS, *PARTS) if kind is not VISION)
        refuse_strangers(path, headers, kinds, expected="a CLIP vision model", cure=cure)
    raise HeaderError(path, "no vision model in it", expected="keys such as vision_model.*", cure=cure)
