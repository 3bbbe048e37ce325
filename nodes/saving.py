"""Nodes that write networks into the output folder, with all that was laid on them and mixed into them."""

from __future__ import annotations

from pydantic import Field

from latentgraph.diffusion.families.autoencoders import KLSpec, PatchedKLSpec, VQSpec
from latentgraph.diffusion.families.catalogue import holds_text
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.names import WeightFormat
from latentgraph.diffusion.types import Clip, Vae
from latentgraph.graph import ComfyName, Context, Known, Node, OutputFacts

from .ranges import check_prefix

PREFIX = "How names begin: 'mine/cat' gives mine/cat_00001_.safetensors."
FORMAT = "The number format of the weights."
_PREFIX = {"prefix": "filename_prefix"}


class SaveCheckpoint(
    Node,
    version=1,
    lane="device",
    effect=True,
    comfy=ComfyName("CheckpointSave", _PREFIX, also=(ComfyName("ModelSave", _PREFIX),)),
):
    """Write a model, with its text encoders and VAE if they are given, as one safetensors file into the output folder.

    Adapters and mixtures become part of the weights. The file has the layout that the family's checkpoints were published
    in, and carries the workflow that made it. A network alone opens with LoadDiffusionModel. Nothing is ever overwritten.
    """

    model: Model = Field(description="The denoising network.")
    clip: Clip | None = Field(None, description="Its text encoders.")
    vae: Vae | None = Field(None, description="Its autoencoder.")
    prefix: str = Field("checkpoints/latentgraph", min_length=1, max_length=200, description=PREFIX)
    format: WeightFormat = Field("float16", description=FORMAT)

    def run(self, ctx: Context) -> None:
        from latentgraph.diffusion.checkpoints.export import save_checkpoint

        path = save_checkpoint(
            ctx.output_dir,
            prefix=self.prefix,
            model=self.model,
            clip=self.clip,
            vae=self.vae,
            format=self.format,
            text=ctx.provenance,
            on_tensor=ctx.progress,
        )
        ctx.saved(path)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_prefix(known)
        model, clip = known.fact("model", "family"), known.fact("clip", "family")
        if model is not None and clip is not None and model != clip:
            known.problem("clip", f"is of the {clip} family, but input 'model' is of the {model} family; name its own")
        elif (spec := known.fact("clip", "spec")) is not None and not holds_text(spec):
            known.problem("clip", f"has no place in checkpoints of the {clip} family; save without it")
        _check_vae(known, "; save without it")
        return {}


class SaveVAE(Node, version=1, lane="device", effect=True, comfy=ComfyName("VAESave", _PREFIX)):
    """Write an autoencoder as a safetensors file of its own, which LoadVAE opens, into the output folder.

    The file carries the workflow that made it. Nothing is ever overwritten.
    """

    vae: Vae = Field(description="The autoencoder.")
    prefix: str = Field("vae/latentgraph", min_length=1, max_length=200, description=PREFIX)
    format: WeightFormat = Field("float16", description=FORMAT)

    def run(self, ctx: Context) -> None:
        from latentgraph.diffusion.checkpoints.export import save_vae

        ctx.saved(
            save_vae(
                ctx.output_dir,
                prefix=self.prefix,
                vae=self.vae,
                format=self.format,
                text=ctx.provenance,
                on_tensor=ctx.progress,
            )
        )

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_prefix(known)
        _check_vae(known, "; its own file will do")
        return {}


class SaveTextEncoders(Node, version=1, lane="device", effect=True, comfy=ComfyName("CLIPSave", _PREFIX)):
    """Write each text encoder as a safetensors file of its own, which LoadTextEncoder opens, into the output folder.

    The files carry the workflow that made them. Nothing is ever overwritten.
    """

    clip: Clip = Field(description="The text encoders.")
    prefix: str = Field(
        "text_encoders/latentgraph",
        min_length=1,
        max_length=200,
        description="How names begin: 'mine/cat' gives mine/cat_clip_l_00001_.safetensors for an encoder clip_l.",
    )
    format: WeightFormat = Field("float16", description=FORMAT)

    def run(self, ctx: Context) -> None:
        from latentgraph.diffusion.checkpoints.export import save_text_encoders

        paths = save_text_encoders(
            ctx.output_dir,
            prefix=self.prefix,
            clip=self.clip,
            format=self.format,
            text=ctx.provenance,
            on_tensor=ctx.progress,
        )
        for path in paths:
            ctx.saved(path)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        check_prefix(known)
        return {}


def _check_vae(known: Known, cure: str) -> None:
    """Reports an autoencoder that is no plain one."""
    vae = known.fact("vae", "spec")
    if vae is not None and not isinstance(vae, KLSpec | PatchedKLSpec | VQSpec):
        known.problem("vae", f"is an autoencoder of a kind that no checkpoint holds{cure}")
