"""Nodes that tell a network of a picture beside the prompt."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from latentgraph.diffusion.names import MaskedFill
from latentgraph.diffusion.pictures.sizes import ENLARGED, Size, enlarged
from latentgraph.diffusion.types import ClipVisionOutput, Conditioning, Image, Latent, Mask, Vae
from latentgraph.graph import ComfyName, Context, Known, Node, OutputFacts

from .autoencoders import percent
from .carried import shown_pictures, with_masked_picture, with_picture, with_small_picture
from .facts import batch_of, check_mask, encoded_facts, size_facts, size_of


class PictureConditions(NamedTuple):
    """What a model that is shown a picture beside the latent samples from."""

    positive: Conditioning
    negative: Conditioning
    latent: Latent


class InpaintConditioning(
    Node, version=1, lane="device", comfy=ComfyName("InpaintModelConditioning", {"image": "pixels"})
):
    """Prepare inpainting with a model that was trained for it: it is shown the mask and the picture around it.

    For latent diffusion of 2022, set `fill` to black.
    """

    positive: Conditioning = Field(description="What to paint.")
    negative: Conditioning = Field(description="What to avoid.")
    vae: Vae = Field(description="The autoencoder of the model that will sample.")
    image: Image = Field(description="The picture.")
    mask: Mask = Field(description="What to paint anew, 1 where the picture is to change.")
    noise_mask: bool = Field(True, description="Also keep the rest of the picture exactly as it is.")
    fill: MaskedFill = Field("grey", description="What the model was trained to see under the mask.")

    def run(self, ctx: Context) -> PictureConditions:
        from latentgraph.diffusion.latents.picture_conditions import condition_on_inpaint

        made = condition_on_inpaint(
            self.vae,
            self.positive,
            self.negative,
            self.image,
            self.mask,
            noise_mask=self.noise_mask,
            fill=self.fill,
            on_progress=percent(ctx),
            on_notice=ctx.warn,
        )
        return PictureConditions(*made)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_mask(known, "mask", "image")
        return {
            "positive": with_masked_picture(known, "positive"),
            "negative": with_masked_picture(known, "negative"),
            "latent": encoded_facts(known),
        }


class InstructPixToPixConditioning(
    Node, version=1, lane="device", comfy=ComfyName("InstructPixToPixConditioning", {"image": "pixels"})
):
    """Prepare the editing of a picture by an instruction, with a model that was trained for it (InstructPix2Pix).

    The prompt says what to do ("make it night"). For both guidances of the paper, use a DualCFGGuider: positive and second are
    the outputs of this node, negative is the negative prompt itself.
    """

    positive: Conditioning = Field(description="The instruction.")
    negative: Conditioning = Field(
        description="What to avoid; the encoding of an empty text for nothing in particular."
    )
    vae: Vae = Field(description="The autoencoder of the model that will sample.")
    image: Image = Field(description="The picture to edit.")

    def run(self, ctx: Context) -> PictureConditions:
        from latentgraph.diffusion.latents.picture_conditions import condition_on_picture

        made = condition_on_picture(
            self.vae, self.positive, self.negative, self.image, on_progress=percent(ctx), on_notice=ctx.warn
        )
        return PictureConditions(*made)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return {
            "positive": with_picture(known, "positive"),
            "negative": with_picture(known, "negative"),
            "latent": encoded_facts(known),
        }


class DepthConditions(NamedTuple):
    """What a model that is shown depth samples from."""

    positive: Conditioning
    negative: Conditioning


class DepthConditioning(Node, version=1):
    """Keep a picture to the depths of another, with Stable Diffusion 2 depth.

    Depths are a grey picture, the nearer the brighter, as MiDaS and Depth Anything make them; only their order and proportions
    count.
    """

    positive: Conditioning = Field(description="What to paint.")
    negative: Conditioning = Field(description="What to avoid.")
    depth: Image = Field(description="How near things are; brighter is nearer.")

    def run(self, ctx: Context) -> DepthConditions:
        from latentgraph.diffusion.sampling.conditions import show_depth

        return DepthConditions(show_depth(self.positive, self.depth), show_depth(self.negative, self.depth))

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return {name: {**known.facts(name), "depth": True} for name in ("positive", "negative")}


class UpscaleConditioning(
    Node,
    version=1,
    comfy=ComfyName(
        "SD_4XUpscale_Conditioning", {"image": "images", "factor": "scale_ratio", "noise": "noise_augmentation"}
    ),
):
    """Have a picture enlarged by a model that was trained for it: Stable Diffusion's x4 upscaler, or latent diffusion of 2022.

    These enlarge 4 times; for another factor the picture is resized first.
    """

    positive: Conditioning = Field(description="What the picture shows.")
    negative: Conditioning = Field(description="What to avoid.")
    image: Image = Field(description="The picture to enlarge.")
    factor: float = Field(4.0, ge=0, le=10, description="How many times as long the sides become.")
    noise: float = Field(
        0.0,
        ge=0,
        le=1,
        description="How much noise to mix into the picture: more hides its flaws and makes up more. The x4 upscaler alone.",
    )

    def run(self, ctx: Context) -> PictureConditions:
        from latentgraph.diffusion.latents.batches import empty_latent
        from latentgraph.diffusion.sampling.conditions import show_small_picture

        batch, height, width, _ = self.image.pixels.shape
        size = enlarged(Size(width, height), self.factor)
        return PictureConditions(
            show_small_picture(self.positive, self.image, noise=self.noise),
            show_small_picture(self.negative, self.image, noise=self.noise),
            empty_latent(width=size.width, height=size.height, batch_size=batch, downscale=ENLARGED),
        )

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        size, factor = size_of(known, "image"), known.value("factor")
        made = None if size is None or factor is None else enlarged(size, factor)
        return {
            "positive": with_small_picture(known, "positive"),
            "negative": with_small_picture(known, "negative"),
            "latent": size_facts(made, batch_of(known, "image")),
        }


class UnclipConditioning(
    Node,
    version=1,
    comfy=ComfyName("unCLIPConditioning", {"pictures": "clip_vision_output", "noise": "noise_augmentation"}),
):
    """Tell a network what pictures show, for variations of them: for Stable Diffusion 2.1 unCLIP, and for SDXL.

    Several of these in a row mix pictures. SDXL takes pictures of CLIP ViT-bigG in place of the pooled text.
    """

    conditioning: Conditioning = Field(description="What else to paint.")
    pictures: ClipVisionOutput = Field(description="What the vision tower of the checkpoint makes of the pictures.")
    strength: float = Field(1.0, ge=-10, le=10, description="How much they count; 0 leaves them out.")
    noise: float = Field(0.0, ge=0, le=1, description="How much noise to mix in: more gives variations further away.")

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.sampling.conditions import show_pictures

        return show_pictures(self.conditioning, self.pictures, strength=self.strength, noise=self.noise)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return {"conditioning": shown_pictures(known, "conditioning", "pictures")}
