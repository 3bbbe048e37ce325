"""Nodes that cut, join, blend, blur and sharpen pictures."""

from __future__ import annotations

from pydantic import Field

from latentgraph.diffusion.names import BlendMode
from latentgraph.diffusion.pictures.sizes import MAX_SIDE, Size, cut
from latentgraph.diffusion.types import Image
from latentgraph.graph import ComfyName, Context, Facts, Known, Node, OutputFacts

from .facts import SameFacts, batch_of, size_facts, size_of

MAX_RADIUS = 31
RADIUS = "Over how many pixels to each side."
SIGMA = "How wide the blur is, in radii; a large one weighs all pixels alike."


class CropImage(Node, version=1, comfy=ComfyName("ImageCrop")):
    """Cut a rectangle out of pictures; what would lie outside of them is left off."""

    image: Image = Field(description="The pictures.")
    width: int = Field(512, ge=1, le=MAX_SIDE, description="Width in pixels.")
    height: int = Field(512, ge=1, le=MAX_SIDE, description="Height in pixels.")
    x: int = Field(0, ge=0, le=MAX_SIDE, description="Pixels from the left.")
    y: int = Field(0, ge=0, le=MAX_SIDE, description="Pixels from the top.")

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.pictures.edits import crop_image

        return crop_image(self.image, x=self.x, y=self.y, width=self.width, height=self.height)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        size, values = size_of(known, "image"), [known.value(name) for name in ("x", "y", "width", "height")]
        if size is None or None in values:
            return {}
        x, y, width, height = values
        if x >= size.width or y >= size.height:
            outside = "x" if x >= size.width else "y"
            known.problem(outside, f"is {known.value(outside)}, outside of input 'image', which is {size}")
            return {}
        return {"image": _like(known, cut(size, x=x, y=y, width=width, height=height).size)}


class InvertImage(SameFacts, Node, version=1, comfy=ComfyName("ImageInvert")):
    """Make the negative of pictures."""

    image: Image = Field(description="The pictures.")

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.pictures.edits import invert_image

        return invert_image(self.image)


class JoinImages(Node, version=1, comfy=ComfyName("ImageBatch", {"first": "image1", "second": "image2"})):
    """Put pictures behind others into one batch; those of another size are cut and resized to the first ones'."""

    first: Image = Field(description="The pictures that come first.")
    second: Image = Field(description="The pictures behind them.")

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.pictures.edits import join_images

        return join_images(self.first, self.second)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        first, second = batch_of(known, "first"), batch_of(known, "second")
        return {"image": size_facts(size_of(known, "first"), first + second if first and second else None)}


class BlendImages(
    SameFacts,
    Node,
    version=1,
    comfy=ComfyName(
        "ImageBlend", {"image": "image1", "other": "image2", "amount": "blend_factor", "mode": "blend_mode"}
    ),
):
    """Mix pictures with others, as layers of a picture are mixed; those of another size are cut and resized."""

    image: Image = Field(description="The pictures below.")
    other: Image = Field(description="The pictures above.")
    amount: float = Field(
        0.5, ge=0, le=1, description="How much of the mode is seen; 0 leaves the pictures as they are."
    )
    mode: BlendMode = Field("normal", description="What is made of the two; difference is what is above taken away.")

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.pictures.edits import blend_images

        return blend_images(self.image, self.other, amount=self.amount, mode=self.mode)


class BlurImage(SameFacts, Node, version=1, comfy=ComfyName("ImageBlur", {"radius": "blur_radius"})):
    """Blur pictures."""

    image: Image = Field(description="The pictures.")
    radius: int = Field(1, ge=1, le=MAX_RADIUS, description=RADIUS)
    sigma: float = Field(1.0, ge=0.1, le=10, description=SIGMA)

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.pictures.edits import blur_image

        return blur_image(self.image, radius=self.radius, sigma=self.sigma)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        _check_radius(known)
        return super().infer(known)


class SharpenImage(
    SameFacts, Node, version=1, comfy=ComfyName("ImageSharpen", {"radius": "sharpen_radius", "amount": "alpha"})
):
    """Sharpen pictures: strengthen what a blur would take away."""

    image: Image = Field(description="The pictures.")
    radius: int = Field(1, ge=1, le=MAX_RADIUS, description=RADIUS)
    sigma: float = Field(1.0, ge=0.1, le=10, description=SIGMA)
    amount: float = Field(1.0, ge=0, le=5, description="How much; 0 leaves the pictures as they are.")

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.pictures.edits import sharpen_image

        return sharpen_image(self.image, radius=self.radius, sigma=self.sigma, amount=self.amount)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        _check_radius(known)
        return super().infer(known)


def _check_radius(known: Known) -> None:
    """Reports a radius that pictures are too small for."""
    size, radius = size_of(known, "image"), known.value("radius")
    if size is not None and radius is not None and min(size) <= radius:
        known.problem("radius", f"is {radius}, but input 'image' is {size}; give one below its shorter side")


def _like(known: Known, size: Size) -> Facts:
    """Facts of the pictures of input 'image' at another size."""
    return size_facts(size, batch_of(known, "image"))
