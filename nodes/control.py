"""Nodes that steer a network by a picture: ControlNets and T2I adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from latentgraph.diffusion.control.reading import describe_control
from latentgraph.diffusion.control.specs import AUTO, unknown_kind, unshown
from latentgraph.diffusion.types import Conditioning, ControlNet, Image, Mask, Vae
from latentgraph.graph import ComfyName, Context, FileInput, Known, Node, OutputFacts

from .carried import steered
from .facts import control_facts, read_header
from .ranges import check_part

UnionKind = Literal[
    "auto",
    "openpose",
    "depth",
    "hed/pidi/scribble/ted",
    "canny/lineart/anime_lineart/mlsd",
    "normal",
    "segment",
    "tile",
    "repaint",
    "blur",
    "gray",
    "low quality",
]


_PART = {"start": "start_percent", "end": "end_percent"}


class Steered(NamedTuple):
    """What to paint and what to avoid, both steered by a picture."""

    positive: Conditioning
    negative: Conditioning


class LoadControlNet(
    Node, version=1, lane="io", cached=False, comfy=ComfyName("ControlNetLoader", {"file": "control_net_name"})
):
    """Open a ControlNet or a T2I adapter, for Stable Diffusion 1.x, 2.x or XL, or a ControlNet for SD3, SD3.5 or FLUX.1.

    A safetensors file in its makers' layout or in diffusers', or a folder of diffusers.
    """

    file: Annotated[Path, FileInput("controlnet")] = Field(description="A control network's name or path.")

    def run(self, ctx: Context) -> ControlNet:
        from latentgraph.diffusion.control.applying import open_control
        from latentgraph.diffusion.networks.memory import WeightMemory

        return open_control(self.file, ctx.resource(WeightMemory))

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        path = known.file("file")
        return {} if path is None else {"control_net": control_facts(read_header(describe_control, path).spec)}


class SetUnionControlNetType(
    Node, version=1, cached=False, comfy=ComfyName("SetUnionControlNetType", {"kind": "type"})
):
    """Tell a union ControlNet what its picture shows."""

    control_net: ControlNet = Field(description="A union ControlNet.")
    kind: UnionKind = Field("auto", description="What the picture shows; auto leaves the network to find out.")

    def run(self, ctx: Context) -> ControlNet:
        from latentgraph.diffusion.control.applying import tell_kind

        return tell_kind(self.control_net, self.kind)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        spec, kind = known.fact("control_net", "spec"), known.value("kind")
        if spec is not None and (wrong := unknown_kind(spec, AUTO if kind is None else kind)) is not None:
            known.problem("control_net" if spec.kinds is None else "kind", wrong)
        return {"control_net": known.facts("control_net")}


class ApplyControlNet(
    Node,
    version=1,
    comfy=ComfyName(
        "ControlNetApplyAdvanced",
        _PART,
        also=(ComfyName("ControlNetApplySD3", _PART),),
    ),
):
    """Steer both prompts by a picture: edges, a depth map, a pose, or whatever the control network was made for.

    The picture is cut to the aspect of the latent and resized to it. Several of these in a row add up.
    """

    positive: Conditioning = Field(description="What to paint.")
    negative: Conditioning = Field(description="What to avoid.")
    control_net: ControlNet = Field(description="What steers: a ControlNet or a T2I adapter.")
    image: Image = Field(description="The picture to go by, made ready for this kind of control network.")
    strength: float = Field(1.0, ge=0, le=10, description="How strongly it steers; 0 not at all.")
    start: float = Field(0.0, ge=0, le=1, description="From which fraction of the schedule on it steers.")
    end: float = Field(1.0, ge=0, le=1, description="Up to which fraction of the schedule it steers.")
    vae: Vae | None = Field(
        None, description="The model's autoencoder, for control networks of SD3 and FLUX.1 that see latents."
    )

    def run(self, ctx: Context) -> Steered:
        from latentgraph.diffusion.control.applying import apply_control

        both = apply_control(
            [self.positive, self.negative],
            self.control_net,
            self.image,
            strength=self.strength,
            start=self.start,
            end=self.end,
            vae=self.vae,
        )
        return Steered(*both)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_part(known, "the control would never act")
        _check_picture(known, vae=bool(known.each("vae")), mask=False)
        return steered(known, "positive", "negative")


class ApplyInpaintControlNet(
    Node,
    version=1,
    comfy=ComfyName("ControlNetInpaintingAliMamaApply", _PART),
):
    """Steer both prompts by a picture of which a part is to be repainted, through a network that was made for that.

    The network sees the picture without what is under the mask.
    """

    positive: Conditioning = Field(description="What to paint.")
    negative: Conditioning = Field(description="What to avoid.")
    control_net: ControlNet = Field(description="What steers: an inpainting ControlNet for SD3 or FLUX.1.")
    vae: Vae = Field(description="The model's autoencoder.")
    image: Image = Field(description="The picture to repaint a part of.")
    mask: Mask = Field(description="Which part; resized to the picture.")
    strength: float = Field(1.0, ge=0, le=10, description="How strongly it steers; 0 not at all.")
    start: float = Field(0.0, ge=0, le=1, description="From which fraction of the schedule on it steers.")
    end: float = Field(1.0, ge=0, le=1, description="Up to which fraction of the schedule it steers.")

    def run(self, ctx: Context) -> Steered:
        from latentgraph.diffusion.control.applying import apply_control

        both = apply_control(
            [self.positive, self.negative],
            self.control_net,
            self.image,
            strength=self.strength,
            start=self.start,
            end=self.end,
            vae=self.vae,
            mask=self.mask,
        )
        return Steered(*both)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_part(known, "the control would never act")
        _check_picture(known, vae=True, mask=True)
        return steered(known, "positive", "negative")


class ApplyControlNetToBoth(Node, version=1, comfy=ComfyName("ControlNetApply")):
    """Steer a prompt by a picture, and with it every negative prompt that has no control of its own.

    ComfyUI's older way; ApplyControlNet says more plainly what is steered.
    """

    conditioning: Conditioning = Field(description="What to paint.")
    control_net: ControlNet = Field(description="What steers: a ControlNet or a T2I adapter.")
    image: Image = Field(description="The picture to go by, made ready for this kind of control network.")
    strength: float = Field(1.0, ge=0, le=10, description="How strongly it steers; 0 not at all.")

    def run(self, ctx: Context) -> Conditioning:
        from latentgraph.diffusion.control.applying import apply_control

        return apply_control([self.conditioning], self.control_net, self.image, strength=self.strength, spread=True)[0]

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        _check_picture(known, vae=False, mask=False)
        return steered(known, "conditioning")


def _check_picture(known: Known, *, vae: bool, mask: bool) -> None:
    """Reports a control network that can't be shown its picture, and an autoencoder whose latents it does not take."""
    spec = known.fact("control_net", "spec")
    if spec is None:
        return
    encoder = known.fact("vae", "spec")
    if (wrong := unshown(spec, vae=vae, mask=mask)) is not None:
        known.problem("control_net", wrong)
    elif spec.hint.latent and encoder is not None and not encoder.encodes:
        known.problem("vae", "is a decoder alone and can't encode; give LoadTinyVAE the encoder's file, too")
    elif vae and spec.hint.latent and known.fact("vae", "latent_channels") not in (None, spec.hint.channels):
        known.problem(
            "vae",
            f"makes latents with {known.fact('vae', 'latent_channels')} channels, but input 'control_net' takes "
            f"{spec.hint.channels}; use the VAE of the model that is steered",
        )
