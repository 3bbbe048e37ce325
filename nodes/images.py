"""Nodes that read, write and change pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from latentgraph.diffusion.names import CropName
from latentgraph.diffusion.pictures.headers import read_picture_size
from latentgraph.diffusion.pictures.sizes import (
    CELL,
    LEAST_EDGED_SIDE,
    MAX_SIDE,
    Size,
    scaled,
    whole_cells,
    with_megapixels,
)
from latentgraph.diffusion.types import Image, Mask
from latentgraph.graph import ComfyName, Context, Facts, FileInput, Known, Node, OutputFacts

from .facts import batch_of, check_mask, check_one_size, read_header, resized_size, size_facts, size_of
from .ranges import check_prefix

PictureMethod = Literal["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]


class PictureAndMask(NamedTuple):
    """Pictures, and a mask of their size."""

    image: Image
    mask: Mask


class LoadImage(Node, version=1, lane="io", comfy=ComfyName("LoadImage", {"file": "image"})):
    """Read a picture. Its transparency becomes the mask, 1 where it is fully transparent; frames become a batch."""

    file: Annotated[Path, FileInput("image")] = Field(description="A picture's name or path.")
    multiple_of: int = Field(
        1, ge=1, le=64, description="Cut around the middle to sides that are multiples of it; networks work in 8 or 16."
    )

    def run(self, ctx: Context) -> PictureAndMask:
        from latentgraph.diffusion.pictures.files import load_picture

        return PictureAndMask(*load_picture(self.file, multiple_of=self.multiple_of))

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        path = known.file("file")
        if path is None:
            return {}
        size, multiple = read_header(read_picture_size, path), known.value("multiple_of")
        if size is None or multiple is None:
            return {}
        if min(size) < multiple:
            known.problem(
                "file",
                f"is a picture of {size}, and input 'multiple_of' cuts it to multiples of {multiple}; its sides must be at "
                f"least {multiple} pixels",
            )
            return {}
        facts = size_facts(whole_cells(size, multiple))
        return {"image": facts, "mask": facts}


class SaveImage(
    Node,
    version=1,
    lane="io",
    effect=True,
    comfy=ComfyName(
        "SaveImage",
        {"image": "images", "prefix": "filename_prefix"},
        also=(ComfyName("PreviewImage", {"image": "images"}),),
    ),
):
    """Write pictures as numbered PNG files into the output folder; nothing is ever overwritten.

    The files carry the workflow that made them.
    """

    image: Image = Field(description="The pictures.")
    prefix: str = Field(
        "latentgraph",
        min_length=1,
        max_length=200,
        description="How names begin: 'cats/cat' gives cats/cat_00001_.png. %width%, %height%, %batch_num%, %year%, "
        "%month%, %day%, %hour%, %minute% and %second% are filled in.",
    )

    def run(self, ctx: Context) -> None:
        from latentgraph.diffusion.pictures.saving import save_pictures

        for path in save_pictures(self.image, ctx.output_dir, prefix=self.prefix, text=ctx.provenance):
            ctx.saved(path)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_prefix(known)
        return {}


class ScaleImage(Node, version=1, comfy=ComfyName("ImageScale", {"method": "upscale_method"})):
    """Resize pictures to a size in pixels."""

    image: Image = Field(description="The pictures.")
    method: PictureMethod = Field("lanczos", description="How pixels between the old ones are made.")
    width: int = Field(512, ge=0, le=MAX_SIDE, description="New width; 0 keeps the aspect.")
    height: int = Field(512, ge=0, le=MAX_SIDE, description="New height; 0 keeps the aspect.")
    crop: CropName = Field("disabled", description="Whether another aspect crops the picture or stretches it.")

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.pictures.resize import resize_image

        return resize_image(self.image, width=self.width, height=self.height, method=self.method, crop=self.crop)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return {"image": _of_size(known, resized_size(known, "image"))}


class ScaleImageBy(
    Node, version=1, comfy=ComfyName("ImageScaleBy", {"method": "upscale_method", "factor": "scale_by"})
):
    """Resize pictures by a factor."""

    image: Image = Field(description="The pictures.")
    method: PictureMethod = Field("lanczos", description="How pixels between the old ones are made.")
    factor: float = Field(1.0, ge=0.01, le=8, description="How many times as long the sides become.")

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.pictures.resize import scale_image

        return scale_image(self.image, self.factor, method=self.method)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        size, factor = size_of(known, "image"), known.value("factor")
        return {"image": _of_size(known, scaled(size, factor) if size and factor else None)}


class ScaleImageToMegapixels(
    Node,
    version=1,
    comfy=ComfyName("ImageScaleToTotalPixels", {"method": "upscale_method", "multiple": "resolution_steps"}),
):
    """Resize pictures to a number of pixels, keeping the aspect."""

    image: Image = Field(description="The pictures.")
    method: PictureMethod = Field("lanczos", description="How pixels between the old ones are made.")
    megapixels: float = Field(1.0, ge=0.01, le=16, description="How many pixels, in units of 1024 x 1024.")
    multiple: int = Field(1, ge=1, le=256, description="What both sides are multiples of.")

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.pictures.resize import resize_image_to_megapixels

        return resize_image_to_megapixels(
            self.image, megapixels=self.megapixels, multiple=self.multiple, method=self.method
        )

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        size, megapixels, multiple = size_of(known, "image"), known.value("megapixels"), known.value("multiple")
        target = with_megapixels(size, megapixels, multiple=multiple) if size and megapixels and multiple else None
        return {"image": _of_size(known, target)}


class PadForOutpaint(Node, version=1, comfy=ComfyName("ImagePadForOutpaint")):
    """Add a grey border to pictures, with a mask to paint it: outpainting is inpainting of that border."""

    image: Image = Field(description="The pictures.")
    left: int = Field(0, ge=0, le=MAX_SIDE, multiple_of=CELL, description="Pixels to add on the left.")
    top: int = Field(0, ge=0, le=MAX_SIDE, multiple_of=CELL, description="Pixels to add at the top.")
    right: int = Field(0, ge=0, le=MAX_SIDE, multiple_of=CELL, description="Pixels to add on the right.")
    bottom: int = Field(0, ge=0, le=MAX_SIDE, multiple_of=CELL, description="Pixels to add at the bottom.")
    feathering: int = Field(
        40, ge=0, le=MAX_SIDE, description="Pixels of the picture, next to the border, into which the mask fades."
    )

    def run(self, ctx: Context) -> PictureAndMask:
        from latentgraph.diffusion.pictures.inpainting import pad_for_outpaint

        padded = pad_for_outpaint(
            self.image,
            left=self.left,
            top=self.top,
            right=self.right,
            bottom=self.bottom,
            feathering=self.feathering,
        )
        return PictureAndMask(*padded)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        size = size_of(known, "image")
        borders = [known.value(side) for side in ("left", "right", "top", "bottom")]
        if size is None or None in borders:
            return {}
        left, right, top, bottom = borders
        padded = Size(size.width + left + right, size.height + top + bottom)
        return {"image": _of_size(known, padded), "mask": size_facts(padded, 1)}


class CompositeMasked(Node, version=1, comfy=ComfyName("ImageCompositeMasked")):
    """Lay pictures over others, through a mask if there is one."""

    destination: Image = Field(description="The pictures below.")
    source: Image = Field(description="The pictures above.")
    x: int = Field(0, ge=-MAX_SIDE, le=MAX_SIDE, description="Where the source's left side is, in pixels.")
    y: int = Field(0, ge=-MAX_SIDE, le=MAX_SIDE, description="Where the source's top is, in pixels.")
    resize_source: bool = Field(False, description="Stretch the source to the destination's size.")
    mask: Mask | None = Field(None, description="1 where the source covers; everywhere if there is none.")
    feather: int = Field(
        0,
        ge=0,
        le=MAX_SIDE,
        description="Pixels over which the source fades out around the mask, so that no seam shows.",
    )

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.pictures.compositing import composite_image

        if self.mask is not None and not self.mask.values.any():
            ctx.warn(
                "the mask is 0 everywhere, so nothing of the source shows; a picture's mask is its transparent part"
            )
        return composite_image(
            self.destination,
            self.source,
            x=self.x,
            y=self.y,
            mask=self.mask,
            resize_source=self.resize_source,
            feather=self.feather,
        )

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_mask(known, "mask", "destination" if known.value("resize_source") else "source")
        return {"image": known.facts("destination")}


class Canny(Node, version=1, comfy=ComfyName("Canny", {"low": "low_threshold", "high": "high_threshold"})):
    """Draw the edges of pictures, white on black, as control networks for edges want them."""

    image: Image = Field(description="The pictures.")
    low: float = Field(0.4, ge=0.01, le=0.99, description="How steep an edge must be that touches a steeper one.")
    high: float = Field(0.8, ge=0.01, le=0.99, description="How steep an edge must be to be drawn by itself.")

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.pictures.edges import find_edges

        return find_edges(self.image, low=self.low, high=self.high)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        low, high = known.value("low"), known.value("high")
        if low is not None and high is not None and low > high:
            known.problem("low", f"is {low}, above input 'high' at {high}; an edge must pass the low one first")
        if (size := size_of(known, "image")) is not None and min(size) < LEAST_EDGED_SIDE:
            known.problem("image", f"is {size}; its sides must be at least {LEAST_EDGED_SIDE} pixels")
        return {"image": known.facts("image")}


class GridImage(Node, version=1):
    """Put pictures side by side on one sheet, to compare them."""

    images: list[Image] = Field(description="The pictures, of one size; batches are taken apart.")
    columns: int | None = Field(
        None, ge=1, le=1000, description="Pictures in a row; without it the sheet is about square."
    )
    gap: int = Field(0, ge=0, le=1000, description="Black pixels between the pictures.")

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.pictures.files import make_grid

        return make_grid(self.images, columns=self.columns, gap=self.gap)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_one_size(known, "images")
        return {}


def _of_size(known: Known, size: Size | None) -> Facts:
    """Facts of the pictures of input 'image' at another size."""
    return size_facts(size, batch_of(known, "image"))
