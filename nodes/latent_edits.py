"""Nodes that cut, turn, join and mix latents."""

from __future__ import annotations

from pydantic import Field

from latentgraph.diffusion.names import FlipDirection, LatentBlendMode
from latentgraph.diffusion.pictures.sizes import CELL, MAX_SIDE, Size, cells_of, cut
from latentgraph.diffusion.types import Latent
from latentgraph.graph import ComfyName, Context, Known, Node, OutputFacts

from .facts import LATENT_FORMAT, SameFacts, batch_of, cell_of, check_latent, size_facts, size_of, some

LEAST_SIDE = 64  # of a part of a latent, in pixels
LATENT = "The latents."
_BOTH = {"latent": "samples1", "other": "samples2"}


class CropLatent(Node, version=1, comfy=ComfyName("LatentCrop", {"latent": "samples"})):
    """Cut a rectangle out of latents and their mask; what would lie outside is left off, but 64 pixels a side stay.

    Pixels that are no whole number of the latents' cells (8 pixels; FLUX.2's: 16) are rounded down.
    """

    latent: Latent = Field(description=LATENT)
    width: int = Field(512, ge=LEAST_SIDE, le=MAX_SIDE, multiple_of=CELL, description="Width in pixels.")
    height: int = Field(512, ge=LEAST_SIDE, le=MAX_SIDE, multiple_of=CELL, description="Height in pixels.")
    x: int = Field(0, ge=0, le=MAX_SIDE, multiple_of=CELL, description="Pixels from the left.")
    y: int = Field(0, ge=0, le=MAX_SIDE, multiple_of=CELL, description="Pixels from the top.")

    def run(self, ctx: Context) -> Latent:
        from latentgraph.diffusion.latents.edits import crop_latent

        cell = self.latent.downscale
        x, y, width, height = (pixels // cell for pixels in (self.x, self.y, self.width, self.height))
        return crop_latent(self.latent, x=x, y=y, width=width, height=height, least=LEAST_SIDE // cell)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        facts = {key: value for key, value in known.facts("latent").items() if key not in ("width", "height")}
        size, values = size_of(known, "latent"), [known.value(name) for name in ("x", "y", "width", "height")]
        if size is None or None in values:
            return {"latent": facts}
        cell = cell_of(known, "latent")
        cells, least = cells_of(size, cell), LEAST_SIDE // cell
        x, y, width, height = (value // cell for value in values)
        for name, place, side in (("x", x, cells.width), ("y", y, cells.height)):
            if place >= side:
                known.problem(name, f"is {known.value(name)}, outside of input 'latent', which is of a {size} picture")
                return {"latent": facts}
        kept = cut(cells, x=x, y=y, width=width, height=height, least=least).size
        return {"latent": {**facts, **size_facts(Size(kept.width * cell, kept.height * cell))}}


class FlipLatent(
    SameFacts, Node, version=1, comfy=ComfyName("LatentFlip", {"latent": "samples", "direction": "flip_method"})
):
    """Mirror latents and their mask; sample them again a little, for decoders are not quite symmetrical."""

    latent: Latent = Field(description=LATENT)
    direction: FlipDirection = Field(
        "horizontal", description="What is swapped: horizontal is left and right, vertical top and bottom."
    )

    def run(self, ctx: Context) -> Latent:
        from latentgraph.diffusion.latents.edits import flip_latent

        return flip_latent(self.latent, self.direction)


class RotateLatent(Node, version=1, comfy=ComfyName("LatentRotate", {"latent": "samples", "degrees": "rotation"})):
    """Turn latents and their mask; sample them again a little, for decoders are not quite symmetrical."""

    latent: Latent = Field(description=LATENT)
    degrees: int = Field(90, ge=0, le=270, multiple_of=90, description="How far, clockwise: 0, 90, 180 or 270.")

    def run(self, ctx: Context) -> Latent:
        from latentgraph.diffusion.latents.edits import rotate_latent

        return rotate_latent(self.latent, self.degrees)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        size, degrees = size_of(known, "latent"), known.value("degrees")
        facts = {key: value for key, value in known.facts("latent").items() if key not in ("width", "height")}
        if size is None or degrees is None:
            return {"latent": facts}
        return {"latent": {**facts, **size_facts(size if degrees % 180 == 0 else Size(size.height, size.width))}}


class JoinLatents(Node, version=1, comfy=ComfyName("LatentBatch", {"first": "samples1", "second": "samples2"})):
    """Put latents behind others into one batch; each keeps the noise that it has where it comes from.

    Latents of another size are cut and resized to the first ones'.
    """

    first: Latent = Field(description="The latents that come first.")
    second: Latent = Field(description="The latents behind them.")

    def run(self, ctx: Context) -> Latent:
        from latentgraph.diffusion.latents.edits import join_latents

        return join_latents(self.first, self.second)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_latent(known, "second", "first")
        first, second = batch_of(known, "first"), batch_of(known, "second")
        size = size_facts(size_of(known, "first"), first + second if first and second else None)
        return {
            "latent": {
                **some(known.facts("second"), LATENT_FORMAT),
                **some(known.facts("first"), LATENT_FORMAT),
                **size,
            }
        }


class _TwoLatents:
    """What is known of input 'latent' is true of the result, and of what it is empty of, what is known of 'other'."""

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_latent(known, "other", "latent")
        return {"latent": {**some(known.facts("other"), LATENT_FORMAT), **known.facts("latent")}}


class BlendLatents(
    _TwoLatents,
    Node,
    version=1,
    comfy=ComfyName(
        "LatentBlend", {**_BOTH, "ratio": "blend_factor"}, also=(ComfyName("LatentInterpolate", dict(_BOTH)),)
    ),
):
    """Mix latents with others; those of another size are cut and resized."""

    latent: Latent = Field(description="The latents that a ratio of 1 gives.")
    other: Latent = Field(description="The latents that a ratio of 0 gives.")
    ratio: float = Field(0.5, ge=0, le=1, description="How much of `latent` is in the mixture.")
    mode: LatentBlendMode = Field(
        "values",
        description="How: values gives the plain mean, as LatentBlend does; directions mixes what cells are like and how "
        "strongly apart, which keeps the contrast, as LatentInterpolate does.",
    )

    def run(self, ctx: Context) -> Latent:
        from latentgraph.diffusion.latents.edits import blend_latents

        return blend_latents(self.latent, self.other, ratio=self.ratio, mode=self.mode)


class AddLatents(_TwoLatents, Node, version=1, comfy=ComfyName("LatentAdd", _BOTH)):
    """Add latents to others; those of another size are cut and resized."""

    latent: Latent = Field(description="The latents that are added to.")
    other: Latent = Field(description="The latents that are added.")

    def run(self, ctx: Context) -> Latent:
        from latentgraph.diffusion.latents.edits import add_latents

        return add_latents(self.latent, self.other)


class SubtractLatents(_TwoLatents, Node, version=1, comfy=ComfyName("LatentSubtract", _BOTH)):
    """Take latents from others; those of another size are cut and resized."""

    latent: Latent = Field(description="The latents that are taken from.")
    other: Latent = Field(description="The latents that are taken away.")

    def run(self, ctx: Context) -> Latent:
        from latentgraph.diffusion.latents.edits import add_latents

        return add_latents(self.latent, self.other, factor=-1.0)


class MultiplyLatent(
    SameFacts, Node, version=1, comfy=ComfyName("LatentMultiply", {"latent": "samples", "factor": "multiplier"})
):
    """Multiply latents: below 1 with less contrast, above 1 with more."""

    latent: Latent = Field(description=LATENT)
    factor: float = Field(1.0, ge=-10, le=10, description="By how much.")

    def run(self, ctx: Context) -> Latent:
        from latentgraph.diffusion.latents.edits import multiply_latent

        return multiply_latent(self.latent, self.factor)
