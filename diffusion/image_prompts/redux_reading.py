"""What a style model's file is, from its header alone: Redux, which makes FLUX.1 read pictures as text. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.headers import HeaderError, read_header
from ..checkpoints.parts import Part, find_part, find_shapes
from ..checkpoints.refusals import key_groups, refuse_others, unbuildable
from ..families.vision import ClipVisionSpec
from ..layouts.structure import StructureError, shape_of

EXPECTED = "a style model"
CURE = "Name FLUX.1 Redux, as a safetensors file."
GROWTH = 3  # how many times as wide as the text the layer in between is


@dataclass(frozen=True, slots=True)
class StyleSpec:
    """Two matrices from a vision tower's tokens, of `picture_width` numbers, to tokens of text of `text_width`."""

    picture_width: int
    text_width: int

    def unreadable(self, vision: ClipVisionSpec) -> str | None:
        """Returns why it can't read what a vision tower says, as the rest of a sentence about that, or None if it can."""
        if (vision.kind, vision.width) == ("siglip", self.picture_width):
            return None
        kind = "CLIP" if vision.kind == "clip" else "SigLIP"
        return (
            f"gives {kind}'s tokens of {vision.width} numbers, but the style model reads SigLIP's of {self.picture_width}; use "
            "the vision tower that it was made with (SigLIP so400m, 384 pixels, for Redux)"
        )


@dataclass(frozen=True, eq=False, slots=True)
class StyleDescription:
    """What a style model is, and where its tensors are."""

    path: Path
    spec: StyleSpec
    part: Part


def describe_style(path: Path | str) -> StyleDescription:
    """Returns what a style model is. Raises HeaderError for a file that is none."""
    path = Path(path)
    header = read_header(path)
    shapes = find_shapes([header], "")
    if "redux_up.weight" not in shapes:
        refuse_others(path, [header], expected=EXPECTED, cure=CURE)
        raise HeaderError(path, key_groups(shapes), expected=EXPECTED, cure=CURE)
    try:
        inner, picture_width = shape_of(shapes, "redux_up.weight", 2)
        text_width, _ = shape_of(shapes, "redux_down.weight", 2)
        if inner != GROWTH * text_width:
            raise StructureError(f"'redux_up.weight' has {inner} rows, not {GROWTH} times the {text_width} of the text")
    except StructureError as error:
        raise unbuildable(path, error) from None
    return StyleDescription(path, StyleSpec(picture_width, text_width), find_part([header], ""))
