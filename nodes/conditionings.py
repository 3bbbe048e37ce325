"""Nodes that join conditions, and say where, when and how strongly they hold."""

from __future__ import annotations

from pydantic import Field

from latentgraph.diffusion.pictures.sizes import CELL, MAX_SIDE
from latentgraph.diffusion.types import Conditioning, Mask, PictureSize
from latentgraph.graph import ComfyName, Context, Facts, Known, Node, OutputFacts

from .facts import SameFacts
from .ranges import check_part


class ConditioningCombine(
    Node, version=1, comfy=ComfyName("ConditioningCombine", {"first": "conditioning_1", "second": "conditioning_2"})
):
    """Let two conditionings hold together: the network is asked for each, and the answers are averaged."""

    first: Conditioning = Field(description="A conditioning.")
    second: Conditioning = Field(description="Another one.")

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.sampling.conditions import combine

        return combine(self.first, self.second)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        second = {fact: value for fact, value in known.facts("second").items() if known.fact("first", fact) is None}
        facts = {**second, **_joined(known, "first", "second")["conditioning"]}
        controls = [*(known.fact("first", "controls") or ()), *(known.fact("second", "controls") or ())]
        return {"conditioning": {**facts, "controls": tuple(dict.fromkeys(controls))} if controls else facts}


class ConditioningConcat(
    Node,
    version=1,
    comfy=ComfyName("ConditioningConcat", {"conditioning": "conditioning_to", "following": "conditioning_from"}),
):
    """Put the tokens of one prompt behind those of another, so that the network reads both at once."""

    conditioning: Conditioning = Field(description="The conditioning that comes first.")
    following: Conditioning = Field(description="The conditioning whose first entry is put behind it.")

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.sampling.conditions import concatenate

        return concatenate(self.conditioning, self.following)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return _joined(known, "conditioning", "following")


class ConditioningAverage(
    Node,
    version=1,
    comfy=ComfyName(
        "ConditioningAverage",
        {"conditioning": "conditioning_to", "other": "conditioning_from", "weight": "conditioning_to_strength"},
    ),
):
    """Mix two prompts into one that lies between them."""

    conditioning: Conditioning = Field(description="The conditioning that a weight of 1 gives unchanged.")
    other: Conditioning = Field(description="The conditioning that a weight of 0 gives.")
    weight: float = Field(1.0, ge=0, le=1, description="How much of `conditioning` is in the mix.")

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.sampling.conditions import average

        return average(self.conditioning, self.other, weight=self.weight)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return _joined(known, "conditioning", "other")


class ConditioningZeroOut(SameFacts, Node, version=1, comfy=ComfyName("ConditioningZeroOut")):
    """Blank the text of a conditioning: zeros in place of what a prompt, even an empty one, would say."""

    conditioning: Conditioning = Field(description="The conditioning to blank.")

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.sampling.conditions import zero_out

        return zero_out(self.conditioning)


class ConditioningArea(SameFacts, Node, version=1, comfy=ComfyName("ConditioningSetArea")):
    """Limit a conditioning to a rectangle of the picture, in pixels."""

    conditioning: Conditioning = Field(description="The conditioning to limit.")
    width: int = Field(64, ge=64, le=MAX_SIDE, multiple_of=CELL, description="The rectangle's width in pixels.")
    height: int = Field(64, ge=64, le=MAX_SIDE, multiple_of=CELL, description="The rectangle's height in pixels.")
    x: int = Field(0, ge=0, le=MAX_SIDE, multiple_of=CELL, description="Pixels from the left.")
    y: int = Field(0, ge=0, le=MAX_SIDE, multiple_of=CELL, description="Pixels from the top.")
    strength: float = Field(1.0, ge=0, le=10, description="Weight against the other conditions that hold there.")

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.sampling.conditions import set_area

        return set_area(
            self.conditioning, width=self.width, height=self.height, x=self.x, y=self.y, strength=self.strength
        )


class ConditioningAreaFraction(SameFacts, Node, version=1, comfy=ComfyName("ConditioningSetAreaPercentage")):
    """Limit a conditioning to a rectangle of the picture, in fractions of its sides."""

    conditioning: Conditioning = Field(description="The conditioning to limit.")
    width: float = Field(1.0, ge=0, le=1, description="The rectangle's width as a fraction of the picture's.")
    height: float = Field(1.0, ge=0, le=1, description="The rectangle's height as a fraction of the picture's.")
    x: float = Field(0.0, ge=0, le=1, description="Fraction of the picture to the left of the rectangle.")
    y: float = Field(0.0, ge=0, le=1, description="Fraction of the picture above the rectangle.")
    strength: float = Field(1.0, ge=0, le=10, description="Weight against the other conditions that hold there.")

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.sampling.conditions import set_area_fraction

        return set_area_fraction(
            self.conditioning, width=self.width, height=self.height, x=self.x, y=self.y, strength=self.strength
        )


class ConditioningStrength(SameFacts, Node, version=1, comfy=ComfyName("ConditioningSetAreaStrength")):
    """Weigh a conditioning against the others that hold with it; alone, it is the same at any strength."""

    conditioning: Conditioning = Field(description="The conditioning to weigh.")
    strength: float = Field(1.0, ge=0, le=10, description="Weight against the other conditions that hold there.")

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.sampling.conditions import set_strength

        return set_strength(self.conditioning, self.strength)


class ConditioningMask(SameFacts, Node, version=1, comfy=ComfyName("ConditioningSetMask", {"bounds": "set_cond_area"})):
    """Limit a conditioning to the part of the picture that a mask marks."""

    conditioning: Conditioning = Field(description="The conditioning to limit.")
    mask: Mask = Field(description="Where it holds: 1 fully, 0 not at all.")
    strength: float = Field(1.0, ge=0, le=10, description="Weight against the other conditions that hold there.")
    bounds: bool = Field(False, description="Show the network only the mask's bounding box.")

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.sampling.conditions import set_mask

        return set_mask(self.conditioning, self.mask, strength=self.strength, bounds=self.bounds)


class ConditioningRange(Node, version=1, comfy=ComfyName("ConditioningSetTimestepRange")):
    """Limit a conditioning to a part of the sampling: 0 is its noisy start, where the composition is settled."""

    conditioning: Conditioning = Field(description="The conditioning to limit.")
    start: float = Field(0.0, ge=0, le=1, description="From which fraction of the schedule on it holds.")
    end: float = Field(1.0, ge=0, le=1, description="Up to which fraction of the schedule it holds.")

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.sampling.conditions import set_range

        return set_range(self.conditioning, start=self.start, end=self.end)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_part(known, "the conditioning would never hold")
        return {"conditioning": known.facts("conditioning")}


class ConditioningSize(SameFacts, Node, version=1):
    """Tell an SDXL network which picture size, crop and target size to draw for; other families do not look at it."""

    conditioning: Conditioning = Field(description="The conditioning to complete.")
    width: int = Field(1024, ge=0, le=MAX_SIDE, description="Width of the picture that is claimed, in pixels.")
    height: int = Field(1024, ge=0, le=MAX_SIDE, description="Height of the picture that is claimed, in pixels.")
    crop_x: int = Field(0, ge=0, le=MAX_SIDE, description="Pixels claimed to be cropped on the left.")
    crop_y: int = Field(0, ge=0, le=MAX_SIDE, description="Pixels claimed to be cropped at the top.")
    target_width: int = Field(1024, ge=0, le=MAX_SIDE, description="Width that the picture is made for, in pixels.")
    target_height: int = Field(1024, ge=0, le=MAX_SIDE, description="Height that the picture is made for, in pixels.")

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.sampling.conditions import set_picture_size

        size = PictureSize(self.height, self.width, self.crop_y, self.crop_x, self.target_height, self.target_width)
        return set_picture_size(self.conditioning, size)


def _joined(known: Known, first: str, second: str) -> OutputFacts:
    """Facts of two conditionings made one; a report if they are for different networks."""
    one, other = known.fact(first, "text_width"), known.fact(second, "text_width")
    if one is not None and other is not None and one != other:
        families = (known.fact(first, "family") or "another", known.fact(second, "family") or "another")
        known.problem(
            second,
            f"is text encoded for the {families[1]} family ({other} numbers a token), but input {first!r} is for the "
            f"{families[0]} family ({one}); encode both with the clip of one checkpoint",
        )
    both: Facts = {key: value for key, value in known.facts(first).items() if known.fact(second, key) in (value, None)}
    return {"conditioning": both}
