"""Nodes that make and change masks: 1 says "change this", 0 "keep it"."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from latentgraph.diffusion.names import ChannelName, CropName, MaskOperation
from latentgraph.diffusion.pictures.headers import read_picture_size
from latentgraph.diffusion.pictures.sizes import MAX_SIDE, Size, cut
from latentgraph.diffusion.types import Image, Mask
from latentgraph.graph import ComfyName, Context, FileInput, Known, Node, OutputFacts

from .facts import SameFacts, batch_of, read_header, resized_size, size_facts, size_of

MaskMethod = Literal["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]


class LoadMask(Node, version=1, lane="io", comfy=ComfyName("LoadImageMask", {"file": "image"})):
    """Read one channel of a picture as a mask; of the alpha channel, what is transparent is 1."""

    file: Annotated[Path, FileInput("image")] = Field(description="A picture's name or path.")
    channel: ChannelName = Field(
        "alpha", description="Which channel; a black and white drawing has its mask in each colour."
    )

    def run(self, ctx: Context) -> Mask:
        from latentgraph.diffusion.pictures.files import load_mask

        return load_mask(self.file, channel=self.channel)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        path = known.file("file")
        return {} if path is None else {"mask": size_facts(read_header(read_picture_size, path), 1)}


class SolidMask(Node, version=1, comfy=ComfyName("SolidMask")):
    """Make a mask of one value."""

    value: float = Field(1.0, ge=0, le=1, description="The value.")
    width: int = Field(512, ge=1, le=MAX_SIDE, description="Width in pixels.")
    height: int = Field(512, ge=1, le=MAX_SIDE, description="Height in pixels.")

    def run(self, ctx: Context) -> Mask:
        from latentgraph.diffusion.pictures.masks import solid_mask

        return solid_mask(self.value, width=self.width, height=self.height)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        width, height = known.value("width"), known.value("height")
        return {"mask": size_facts(Size(width, height) if width and height else None, 1)}


class MaskFromImage(Node, version=1, comfy=ComfyName("ImageToMask")):
    """Take one channel of pictures as a mask, such as the red one of a black and white picture."""

    image: Image = Field(description="The pictures.")
    channel: ChannelName = Field("red", description="Which channel; pictures without transparency have no alpha.")

    def run(self, ctx: Context) -> Mask:
        from latentgraph.diffusion.pictures.masks import mask_of_channel

        return mask_of_channel(self.image, self.channel)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return {"mask": known.facts("image")}


class ImageFromMask(Node, version=1, comfy=ComfyName("MaskToImage")):
    """Show a mask as a picture: white is what it changes."""

    mask: Mask = Field(description="The mask.")

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.pictures.masks import mask_picture

        return mask_picture(self.mask)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return {"image": known.facts("mask")}


class ScaleMask(Node, version=1):
    """Resize a mask to a size in pixels, as ScaleImage does with its picture."""

    mask: Mask = Field(description="The mask.")
    method: MaskMethod = Field("bilinear", description="How values between the old ones are made.")
    width: int = Field(512, ge=0, le=MAX_SIDE, description="New width; 0 keeps the aspect.")
    height: int = Field(512, ge=0, le=MAX_SIDE, description="New height; 0 keeps the aspect.")
    crop: CropName = Field("disabled", description="Whether another aspect crops the mask or stretches it.")

    def run(self, ctx: Context) -> Mask:
        from latentgraph.diffusion.pictures.resize import resize_mask

        return resize_mask(self.mask, width=self.width, height=self.height, method=self.method, crop=self.crop)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        size = resized_size(known, "mask")
        return {"mask": size_facts(size, batch_of(known, "mask"))}


class InvertMask(SameFacts, Node, version=1, comfy=ComfyName("InvertMask")):
    """Swap what a mask keeps and what it changes."""

    mask: Mask = Field(description="The mask.")

    def run(self, ctx: Context) -> Mask:
        from latentgraph.diffusion.pictures.masks import invert_mask

        return invert_mask(self.mask)


class GrowMask(SameFacts, Node, version=1, comfy=ComfyName("GrowMask", {"pixels": "expand"})):
    """Grow a mask in every direction, or shrink it."""

    mask: Mask = Field(description="The mask.")
    pixels: int = Field(0, ge=-MAX_SIDE, le=MAX_SIDE, description="By how many pixels; below 0 shrinks.")
    tapered_corners: bool = Field(True, description="Round off corners instead of keeping them square.")

    def run(self, ctx: Context) -> Mask:
        from latentgraph.diffusion.pictures.masks import grow_mask

        return grow_mask(self.mask, pixels=self.pixels, tapered_corners=self.tapered_corners)


class FeatherMask(SameFacts, Node, version=1, comfy=ComfyName("FeatherMask")):
    """Fade a mask out towards the sides of the picture."""

    mask: Mask = Field(description="The mask.")
    left: int = Field(0, ge=0, le=MAX_SIDE, description="Over how many pixels from the left.")
    top: int = Field(0, ge=0, le=MAX_SIDE, description="Over how many pixels from the top.")
    right: int = Field(0, ge=0, le=MAX_SIDE, description="Over how many pixels from the right.")
    bottom: int = Field(0, ge=0, le=MAX_SIDE, description="Over how many pixels from the bottom.")

    def run(self, ctx: Context) -> Mask:
        from latentgraph.diffusion.pictures.masks import feather_mask

        return feather_mask(self.mask, left=self.left, top=self.top, right=self.right, bottom=self.bottom)


class ThresholdMask(SameFacts, Node, version=1, comfy=ComfyName("ThresholdMask")):
    """Make a soft mask hard: 1 above a value, 0 elsewhere."""

    mask: Mask = Field(description="The mask.")
    value: float = Field(0.5, ge=0, le=1, description="What a pixel must be above to count.")

    def run(self, ctx: Context) -> Mask:
        from latentgraph.diffusion.pictures.masks import threshold_mask

        return threshold_mask(self.mask, value=self.value)


class CropMask(Node, version=1, comfy=ComfyName("CropMask")):
    """Cut a rectangle out of a mask; what would lie outside of it is left off."""

    mask: Mask = Field(description="The mask.")
    x: int = Field(0, ge=0, le=MAX_SIDE, description="Pixels from the left.")
    y: int = Field(0, ge=0, le=MAX_SIDE, description="Pixels from the top.")
    width: int = Field(512, ge=1, le=MAX_SIDE, description="Width in pixels.")
    height: int = Field(512, ge=1, le=MAX_SIDE, description="Height in pixels.")

    def run(self, ctx: Context) -> Mask:
        from latentgraph.diffusion.pictures.masks import crop_mask

        return crop_mask(self.mask, x=self.x, y=self.y, width=self.width, height=self.height)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        size = size_of(known, "mask")
        corner = [known.value(name) for name in ("x", "y", "width", "height")]
        if size is None or None in corner:
            return {}
        x, y, width, height = corner
        cropped = cut(size, x=x, y=y, width=width, height=height).size
        return {"mask": size_facts(cropped, batch_of(known, "mask"))}


class CompositeMask(Node, version=1, comfy=ComfyName("MaskComposite")):
    """Combine two masks where one lies on the other."""

    destination: Mask = Field(description="The mask below.")
    source: Mask = Field(description="The mask above.")
    x: int = Field(0, ge=-MAX_SIDE, le=MAX_SIDE, description="Where the source's left side is, in pixels.")
    y: int = Field(0, ge=-MAX_SIDE, le=MAX_SIDE, description="Where the source's top is, in pixels.")
    operation: MaskOperation = Field("multiply", description="How values combine; and, or and xor round them first.")

    def run(self, ctx: Context) -> Mask:
        from latentgraph.diffusion.pictures.masks import composite_mask

        return composite_mask(self.destination, self.source, x=self.x, y=self.y, operation=self.operation)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return {"mask": known.facts("destination")}
