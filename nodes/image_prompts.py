"""Nodes that show a network pictures beside its text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from latentgraph.diffusion.image_prompts.reading import describe_ip_adapter
from latentgraph.diffusion.image_prompts.redux_reading import describe_style
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.types import ClipVision, ClipVisionOutput, Conditioning, Image, IpAdapter, StyleModel
from latentgraph.graph import ComfyName, Context, FileInput, Known, Node, OutputFacts

from .facts import read_header
from .ranges import check_part


class LoadIPAdapter(Node, version=1, lane="io", cached=False):
    """Open an IP adapter for Stable Diffusion 1.x or XL: a plain one, a plus or a full one.

    It reads pictures by a vision tower of its own choice: ViT-H for most, ViT-bigG for the plain one for SDXL.
    """

    file: Annotated[Path, FileInput("ip_adapter")] = Field(description="An IP adapter's name or path.")

    def run(self, ctx: Context) -> IpAdapter:
        from latentgraph.diffusion.image_prompts.applying import open_ip_adapter
        from latentgraph.diffusion.networks.memory import WeightMemory

        return open_ip_adapter(self.file, ctx.resource(WeightMemory))

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        path = known.file("file")
        return {} if path is None else {"ip_adapter": {"spec": read_header(describe_ip_adapter, path).spec}}


class ApplyIPAdapter(Node, version=1, cached=False):
    """Show a network pictures, which it attends to beside its text; a negative prompt does not see them.

    Several of these in a row add up.
    """

    model: Model = Field(description="The denoising network.")
    ip_adapter: IpAdapter = Field(description="What makes it attend to pictures.")
    clip_vision: ClipVision = Field(description="The vision tower that the IP adapter was made with.")
    image: Image = Field(description="The pictures, cut to squares; a batch of them is seen together.")
    weight: float = Field(
        1.0, ge=-10, le=10, description="How strongly it attends to them; 0 not at all, 1 as to text."
    )
    start: float = Field(0.0, ge=0, le=1, description="From which fraction of the schedule on.")
    end: float = Field(1.0, ge=0, le=1, description="Up to which fraction of the schedule.")

    def run(self, ctx: Context) -> Model:
        from latentgraph.diffusion.image_prompts.applying import prompt_with_image

        return prompt_with_image(
            self.model,
            self.ip_adapter,
            self.clip_vision,
            self.image,
            weight=self.weight,
            start=self.start,
            end=self.end,
        )

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        adapter = known.fact("ip_adapter", "spec")
        model, vision = known.fact("model", "spec"), known.fact("clip_vision", "spec")
        if adapter is not None and model is not None and (wrong := adapter.misfit(model)) is not None:
            known.problem("ip_adapter", wrong)
        if adapter is not None and vision is not None and (wrong := adapter.unreadable(vision)) is not None:
            known.problem("clip_vision", wrong)
        check_part(known, "the pictures would never be seen")
        return {"model": known.facts("model")}


class LoadStyleModel(
    Node, version=1, lane="io", cached=False, comfy=ComfyName("StyleModelLoader", {"file": "style_model_name"})
):
    """Open a style model: FLUX.1 Redux, which says pictures in words of the network's own."""

    file: Annotated[Path, FileInput("style_model")] = Field(description="A style model's name or path.")

    def run(self, ctx: Context) -> StyleModel:
        from latentgraph.diffusion.image_prompts.redux import open_style
        from latentgraph.diffusion.networks.memory import WeightMemory

        return open_style(self.file, ctx.resource(WeightMemory))

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        path = known.file("file")
        return {} if path is None else {"style_model": {"spec": read_header(describe_style, path).spec}}


class ApplyStyleModel(Node, version=1, lane="device", comfy=ComfyName("StyleModelApply")):
    """Put pictures behind a prompt, as if they were text. An empty prompt lets them speak alone."""

    conditioning: Conditioning = Field(description="The prompt.")
    style_model: StyleModel = Field(description="What makes text of pictures.")
    clip_vision_output: ClipVisionOutput = Field(
        description="What the style model's vision tower makes of the pictures."
    )
    strength: float = Field(1.0, ge=0, le=10, description="What the pictures' tokens are multiplied by.")
    strength_type: Literal["multiply"] = Field(
        "multiply", description="What the strength does to the pictures' tokens."
    )

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.image_prompts.redux import say_with_pictures

        return say_with_pictures(self.conditioning, self.style_model, self.clip_vision_output, strength=self.strength)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        style, vision = known.fact("style_model", "spec"), known.fact("clip_vision_output", "spec")
        width = known.fact("conditioning", "text_width")
        if style is not None and vision is not None and (wrong := style.unreadable(vision)) is not None:
            known.problem("clip_vision_output", wrong)
        if style is not None and width not in (None, style.text_width):
            known.problem(
                "style_model",
                f"speaks of {style.text_width} numbers a token, but input 'conditioning' is text of {width}; Redux is FLUX's",
            )
        return {"conditioning": known.facts("conditioning")}
