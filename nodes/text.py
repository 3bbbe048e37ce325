"""Nodes that turn prompts into conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from latentgraph.diffusion.families.text_specs import WORDLESS, EncoderKey
from latentgraph.diffusion.pictures.sizes import MAX_SIDE
from latentgraph.diffusion.text.embeddings import read_embedding
from latentgraph.diffusion.text.tokens import embedding_names
from latentgraph.diffusion.types import Clip, Conditioning, PictureSize
from latentgraph.graph import ComfyName, Context, FilesInText, Known, Node, OutputFacts

from .facts import TEXT, SameFacts, read_header, some

Prompt = Annotated[str, FilesInText("embedding", embedding_names)]


class TextEncode(Node, version=1, lane="device", comfy=ComfyName("CLIPTextEncode")):
    """Encode a prompt for the network.

    `(words:1.2)` weighs words up or down, `(words)` by 1.1. `embedding:name` stands for the vectors of a textual inversion. A
    prompt may be longer than the 75 tokens of one chunk.
    """

    clip: Clip = Field(description="The text encoders of the model's checkpoint.")
    text: Prompt = Field(description="What to paint, or for a negative prompt what to avoid.")

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.text.embeddings import vector_finder
        from latentgraph.diffusion.text.encoding import encode_prompt

        encoded = encode_prompt(self.clip, self.text, find_vectors=vector_finder(ctx.text_files))
        warn_of_missing(ctx, encoded.missing)
        return encoded.conditioning

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_embeddings(known, "text")
        return {"conditioning": some(known.facts("clip"), TEXT)}


class TextEncodeSDXL(
    Node,
    version=1,
    lane="device",
    comfy=ComfyName("CLIPTextEncodeSDXL", {"crop_x": "crop_w", "crop_y": "crop_h"}),
):
    """Encode a prompt for an SDXL network, with words of its own for each of its text encoders, and with picture sizes."""

    clip: Clip = Field(description="The text encoders of an SDXL checkpoint.")
    text_g: Prompt = Field(description="What to paint, for the larger encoder (CLIP-G), which also sums it up.")
    text_l: Prompt = Field(description="What to paint, for the smaller encoder (CLIP-L).")
    width: int = Field(1024, ge=0, le=MAX_SIDE, description="Width of the picture that is claimed, in pixels.")
    height: int = Field(1024, ge=0, le=MAX_SIDE, description="Height of the picture that is claimed, in pixels.")
    crop_x: int = Field(0, ge=0, le=MAX_SIDE, description="Pixels claimed to be cropped on the left.")
    crop_y: int = Field(0, ge=0, le=MAX_SIDE, description="Pixels claimed to be cropped at the top.")
    target_width: int = Field(1024, ge=0, le=MAX_SIDE, description="Width that the picture is made for, in pixels.")
    target_height: int = Field(1024, ge=0, le=MAX_SIDE, description="Height that the picture is made for, in pixels.")

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.sampling.conditions import set_picture_size
        from latentgraph.diffusion.text.embeddings import vector_finder
        from latentgraph.diffusion.text.encoding import encode_prompts

        prompts: dict[EncoderKey, str] = {"clip_l": self.text_l, "clip_g": self.text_g}
        encoded = encode_prompts(self.clip, prompts, find_vectors=vector_finder(ctx.text_files))
        warn_of_missing(ctx, encoded.missing)
        size = PictureSize(self.height, self.width, self.crop_y, self.crop_x, self.target_height, self.target_width)
        return set_picture_size(encoded.conditioning, size)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        clip = known.fact("clip", "spec")
        if clip is not None and {encoder.key for encoder in clip.encoders} != {"clip_l", "clip_g"}:
            keys = " and ".join(encoder.key for encoder in clip.encoders)
            known.problem("clip", f"has {keys}, of the {clip.family} family, not clip_l and clip_g; use TextEncode")
        check_embeddings(known, "text_g")
        return {"conditioning": some(known.facts("clip"), TEXT)}


class TextEncodeSDXLRefiner(
    Node, version=1, lane="device", comfy=ComfyName("CLIPTextEncodeSDXLRefiner", {"score": "ascore"})
):
    """Encode a prompt for the SDXL refiner, with how beautiful the picture is to be.

    The refiner takes over from SDXL for the last fifth of the steps, or paints a picture over at a low denoise.
    """

    clip: Clip = Field(description="The text encoder of a refiner checkpoint.")
    text: Prompt = Field(description="What to paint, or for a negative prompt what to avoid.")
    score: float = Field(
        6.0, ge=0, le=1000, description="Beauty, of 10; 6 for what to paint, and 2.5 for what to avoid."
    )
    width: int = Field(1024, ge=0, le=MAX_SIDE, description="Width of the picture that is claimed, in pixels.")
    height: int = Field(1024, ge=0, le=MAX_SIDE, description="Height of the picture that is claimed, in pixels.")

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.sampling.conditions import set_picture_size
        from latentgraph.diffusion.text.embeddings import vector_finder
        from latentgraph.diffusion.text.encoding import encode_prompt

        encoded = encode_prompt(self.clip, self.text, find_vectors=vector_finder(ctx.text_files))
        warn_of_missing(ctx, encoded.missing)
        size = PictureSize(height=self.height, width=self.width, aesthetic_score=self.score)
        return set_picture_size(encoded.conditioning, size)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        clip = known.fact("clip", "spec")
        if clip is not None and [encoder.key for encoder in clip.encoders] != ["clip_g"]:
            keys = " and ".join(encoder.key for encoder in clip.encoders)
            known.problem("clip", f"has {keys}, of the {clip.family} family, not clip_g alone; use TextEncode")
        check_embeddings(known, "text")
        return {"conditioning": some(known.facts("clip"), TEXT)}


class ClipSkip(
    SameFacts, Node, version=1, cached=False, comfy=ComfyName("CLIPSetLastLayer", {"layer": "stop_at_clip_layer"})
):
    """Read the text encoders' hidden states from another layer than their family's own."""

    clip: Clip = Field(description="The text encoders.")
    layer: int = Field(-1, ge=-24, le=-1, description="-1 is the last layer, -2 the one before, and so on.")

    def run(self, ctx: Context) -> Clip:
        return replace(self.clip, layer=self.layer)


def warn_of_missing(ctx: Context, missing: Sequence[str]) -> None:
    """Warns of embeddings that a prompt names and that are not there."""
    if missing:
        ctx.warn(f"no embedding was found for {', '.join(missing)}; it was left out of the prompt")


def check_embeddings(known: Known, text: str) -> None:
    """Reports each embedding that the node's texts name and that is not one for its text encoders, at the input `text`.

    What reads no prompts at all is reported at the input 'clip'.
    """
    clip = known.fact("clip", "spec")
    wordless = [] if clip is None else [WORDLESS[encoder.kind] for encoder in clip.encoders if encoder.kind in WORDLESS]
    if clip is not None and wordless:
        told, node = wordless[0]
        known.problem("clip", f"is told {told}, of the {clip.family} family, not prompts; use {node}")
        return
    for name, path in known.text_files.items():
        embedding = read_header(read_embedding, path)
        if clip is not None and (wrong := embedding.misfit(clip)) is not None:
            known.problem(text, f"names the embedding {name!r}, which {wrong}")
