"""Nodes that show pictures to vision towers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from latentgraph.diffusion.checkpoints.vision import describe_vision
from latentgraph.diffusion.names import PrecisionChoice, VisionCrop
from latentgraph.diffusion.types import ClipVision, ClipVisionOutput, Image
from latentgraph.graph import ComfyName, Context, FileInput, Known, Node, OutputFacts

from .facts import batch_of, read_header, size_facts, vision_facts
from .loading import PRECISION


class LoadClipVision(
    Node, version=1, lane="io", cached=False, comfy=ComfyName("CLIPVisionLoader", {"file": "clip_name"})
):
    """Open a vision tower, which turns pictures into embeddings: CLIP's ViT-L, ViT-H or ViT-bigG, or SigLIP's.

    A safetensors file of a tower or of a whole CLIP model, an unCLIP checkpoint, or a diffusers folder with `image_encoder/`.
    """

    file: Annotated[Path, FileInput("clip_vision")] = Field(description="A vision model's name or path.")
    precision: PrecisionChoice = Field("default", description=PRECISION)

    def run(self, ctx: Context) -> ClipVision:
        from latentgraph.diffusion.checkpoints.opening import in_precision, open_vision
        from latentgraph.diffusion.networks.memory import WeightMemory

        return in_precision(open_vision(self.file, ctx.resource(WeightMemory)), self.precision)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        path = known.file("file")
        return {} if path is None else {"clip_vision": vision_facts(read_header(describe_vision, path).spec)}


class EncodeClipVision(Node, version=1, lane="device", comfy=ComfyName("CLIPVisionEncode")):
    """Show pictures to a vision tower."""

    clip_vision: ClipVision = Field(description="The vision tower.")
    image: Image = Field(description="The pictures; of any size, since they are resized to what the tower reads.")
    crop: VisionCrop = Field("center", description="Cut the longer side at both ends, or squeeze the picture (none).")

    def run(self, ctx: Context) -> ClipVisionOutput:
        from latentgraph.diffusion.vision.encoding import encode_pictures

        return encode_pictures(self.clip_vision, self.image, crop=self.crop)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        facts = {**known.facts("clip_vision"), **size_facts(None, batch_of(known, "image"))}
        return {"clip_vision_output": facts}
