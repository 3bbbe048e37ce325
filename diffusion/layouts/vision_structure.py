"""The structure of a vision tower, read from the names and shapes of its tensors; see `structure`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import count, takewhile
from math import isqrt
from typing import Any

from ..families.vision import ACTIVATIONS, HEAD_WIDTH, SIDES, TOWERS, ClipVisionSpec, VisionKind
from .structure import Shapes, StructureError, shape_of
from .vision_keys import LAYOUTS


def read_vision(shapes: Shapes) -> ClipVisionSpec:
    """Returns the structure of a vision tower; shapes are keys without prefix. Raises StructureError."""
    names = next((names for names in LAYOUTS if names.patches in shapes), None)
    if names is None:
        raise StructureError("it has no embedding of patches")
    width, _, patch, _ = shape_of(shapes, names.patches, 4)
    layers = sum(1 for _ in takewhile(shapes.__contains__, map(names.fc1.format, count())))
    if not layers:
        raise StructureError("it has no layers")
    positions = shape_of(shapes, names.positions, 2)[0]
    kind: VisionKind = "clip" if names.class_token in shapes else "siglip"
    grid = isqrt(positions - (1 if kind == "clip" else 0))
    if grid**2 + (1 if kind == "clip" else 0) != positions:
        raise StructureError(f"{positions} positions are no square grid of patches")
    projection = None if kind == "siglip" else shape_of(shapes, names.projection, 2)[1 if names.turned else 0]
    tower = next(tower for tower in TOWERS if tower.kind == kind and layers >= tower.least_layers)
    return ClipVisionSpec(
        kind=kind,
        width=width,
        layers=layers,
        heads=tower.heads or max(1, width // HEAD_WIDTH),
        intermediate=shape_of(shapes, names.fc1.format(0), 2)[0],
        patch=patch,
        grid=grid,
        side=SIDES.get((patch, grid), patch * grid),
        activation=tower.activation,
        projection_width=projection,
        mean=tower.mean,
        std=tower.std,
        pooling_head=any(key.startswith(names.head) for key in shapes),
    )


def configured(spec: ClipVisionSpec, config: Mapping[str, Any]) -> ClipVisionSpec:
    """Returns the structure with what transformers' config adds to the shapes."""
    config = config.get("vision_config", config)
    heads = config.get("num_attention_heads", spec.heads)
    activation = config.get("hidden_act", spec.activation)
    if not isinstance(heads, int) or heads < 1 or spec.width % heads:
        raise StructureError(f"it has {heads!r} attention heads for a width of {spec.width}")
    side = config.get("image_size", spec.side)
    if not isinstance(side, int) or side // spec.patch != spec.grid:
        raise StructureError(
            f"it reads pictures of {side!r} pixels, but has {spec.grid} patches of {spec.patch} a side"
        )
    if activation not in ACTIVATIONS:
        raise StructureError(f"it has the activation {activation!r}, none of {', '.join(ACTIVATIONS)}")
    return replace(spec, heads=heads, activation=activation, side=side)
