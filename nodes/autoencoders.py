"""Nodes that make latents of pictures, and pictures of latents."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from latentgraph.diffusion.types import Image, Latent, Mask, Vae
from latentgraph.graph import ComfyName, Context, Facts, Known, Node, OutputFacts
from latentgraph.graph.params import MAX_SEED

from .facts import batch_of, check_latent, check_mask, encoded_facts, size_facts, size_of


class VAEEncode(
    Node,
    version=1,
    lane="device",
    comfy=ComfyName("VAEEncode", {"image": "pixels"}, also=(ComfyName("VAEEncodeForInpaint", {"image": "pixels"}),)),
):
    """Encode pictures as latents.

    With a mask the masked part is greyed out before, and the mask says what sampling may change: that is inpainting with a
    model that knows nothing of it, at a denoise of 1. To keep what is under the mask as a start for a lower denoise, encode
    without a mask and use SetLatentMask. Sides that are no multiple of 8 are cropped around the centre.
    """

    vae: Vae = Field(description="The autoencoder of the model that will sample.")
    image: Image = Field(description="The pictures.")
    mask: Mask | None = Field(None, description="What to paint anew, 1 where the picture is to change.")
    grow_mask_by: int = Field(6, ge=0, le=64, description="Pixels to grow the mask by, so that its border blends in.")

    def run(self, ctx: Context) -> Latent:
        from latentgraph.diffusion.latents.autoencoder import encode
        from latentgraph.diffusion.latents.picture_conditions import encode_for_inpaint

        if self.mask is None:
            return encode(self.vae, self.image, on_progress=percent(ctx), on_notice=ctx.warn)
        return encode_for_inpaint(
            self.vae,
            self.image,
            self.mask,
            grow_mask_by=self.grow_mask_by,
            on_progress=percent(ctx),
            on_notice=ctx.warn,
        )

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_mask(known, "mask", "image")
        return {"latent": encoded_facts(known)}


class VAEDecode(Node, version=1, lane="device", comfy=ComfyName("VAEDecode", {"latent": "samples"})):
    """Decode latents to pictures."""

    vae: Vae = Field(description="The autoencoder of the model that sampled.")
    latent: Latent = Field(description="The latents.")

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.latents.autoencoder import decode

        return decode(self.vae, self.latent, on_progress=percent(ctx), on_notice=ctx.warn)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        return {"image": _decoded(known)}


class ConsistencyDecode(Node, version=1, lane="device"):
    """Decode latents with the consistency decoder (DALL-E 3's), which makes pictures from noise in two steps.

    VAEDecode does it, too, with the noise of seed 0.
    """

    vae: Vae = Field(description="A consistency decoder.")
    latent: Latent = Field(description="The latents, of SD1 or SD2.")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Which noise: fine detail differs from seed to seed.")

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.latents.autoencoder import decode

        return decode(self.vae, self.latent, seed=self.seed, on_progress=percent(ctx))

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        spec = known.fact("vae", "spec")
        if spec is not None and not spec.draws_noise:
            known.problem("vae", "is an autoencoder that draws no noise; use VAEDecode")
        return {"image": _decoded(known)}


class VAEEncodeTiled(Node, version=1, lane="device", comfy=ComfyName("VAEEncodeTiled", {"image": "pixels"})):
    """Encode pictures as latents in tiles, so that a large picture needs no more memory than a small one."""

    vae: Vae = Field(description="The autoencoder of the model that will sample.")
    image: Image = Field(description="The pictures.")
    tile_size: int = Field(512, ge=64, le=4096, multiple_of=64, description="Side of a tile in pixels.")
    overlap: int = Field(
        64, ge=0, le=4096, multiple_of=32, description="Pixels in which tiles overlap and blend; less than half a tile."
    )

    def run(self, ctx: Context) -> Latent:
        from latentgraph.diffusion.latents.autoencoder import encode_tiled

        return encode_tiled(
            self.vae, self.image, tile_size=self.tile_size, overlap=self.overlap, on_progress=percent(ctx)
        )

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        tile_size, overlap = known.value("tile_size"), known.value("overlap")
        if tile_size is not None and overlap is not None and 2 * overlap >= tile_size:
            known.problem("overlap", f"is {overlap}; expected less than half of the tile size {tile_size}")
        return {"latent": encoded_facts(known)}


class VAEDecodeTiled(Node, version=1, lane="device", comfy=ComfyName("VAEDecodeTiled", {"latent": "samples"})):
    """Decode latents to pictures in tiles, so that a large picture needs no more memory than a small one."""

    vae: Vae = Field(description="The autoencoder of the model that sampled.")
    latent: Latent = Field(description="The latents.")
    tile_size: int = Field(512, ge=64, le=4096, multiple_of=32, description="Side of a tile in pixels of the picture.")
    overlap: int = Field(
        64,
        ge=0,
        le=4096,
        multiple_of=32,
        description="Pixels in which tiles overlap and blend; at most a quarter tile.",
    )

    def run(self, ctx: Context) -> Image:
        from latentgraph.diffusion.latents.autoencoder import decode_tiled

        return decode_tiled(
            self.vae, self.latent, tile_size=self.tile_size, overlap=self.overlap, on_progress=percent(ctx)
        )

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        spec = known.fact("vae", "spec")
        if spec is not None and spec.draws_noise:
            known.problem("vae", "draws noise for the whole picture and can't decode in tiles; use ConsistencyDecode")
        return {"image": _decoded(known)}


def percent(ctx: Context) -> Callable[[float], None]:
    """Returns what tells a run of the fraction of a node's work that is done."""
    return lambda fraction: ctx.progress(round(100 * fraction), 100)


def _decoded(known: Known) -> Facts:
    """Facts of the picture that the inputs 'vae' and 'latent' give; a report if they do not go together."""
    check_latent(known, "latent", "vae")
    return size_facts(size_of(known, "latent"), batch_of(known, "latent"))
