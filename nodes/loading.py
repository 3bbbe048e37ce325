"""Nodes that open weights. They give light handles: weights are read when something first uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from latentgraph.diffusion.checkpoints.describe import describe, describe_vae
from latentgraph.diffusion.types import Clip, Model, Vae
from latentgraph.graph import ABSENT, ComfyName, Context, Facts, FileInput, Known, Node, OutputFacts

from .facts import clip_facts, model_facts, read_header, vae_facts


class LoadedCheckpoint(NamedTuple):
    """The parts of a checkpoint; a checkpoint may lack text encoders or a VAE."""

    model: Model
    clip: Clip | None
    vae: Vae | None


class LoadCheckpoint(
    Node, version=1, lane="io", cached=False, comfy=ComfyName("CheckpointLoaderSimple", {"file": "ckpt_name"})
):
    """Open a checkpoint: its denoising network, its text encoders and its autoencoder.

    A single safetensors file or a diffusers folder. `emoji` is the small model that comes with latentgraph.
    """

    file: Annotated[Path, FileInput("checkpoint")] = Field(
        description="A checkpoint's name or path; 'emoji' is built in."
    )

    def run(self, ctx: Context) -> LoadedCheckpoint:
        from latentgraph.diffusion.checkpoints.opening import open_checkpoint
        from latentgraph.diffusion.networks.memory import WeightMemory

        checkpoint = open_checkpoint(self.file, ctx.resource(WeightMemory))
        return LoadedCheckpoint(checkpoint.model, checkpoint.clip, checkpoint.vae)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        path = known.file("file")
        if path is None:
            return {}
        found = read_header(describe, path)
        no_clip: Facts = {ABSENT: f"{path.name} has no text encoder"}
        no_vae: Facts = {ABSENT: f"{path.name} has no VAE; load one with LoadVAE"}
        return {
            "model": model_facts(found.model),
            "clip": clip_facts(found.clip) if found.clip else no_clip,
            "vae": vae_facts(found.vae, found.model) if found.vae else no_vae,
        }


class LoadVAE(Node, version=1, lane="io", cached=False, comfy=ComfyName("VAELoader", {"file": "vae_name"})):
    """Open an autoencoder: a VAE file, or the VAE of a checkpoint or of a diffusers folder."""

    file: Annotated[Path, FileInput("vae")] = Field(description="A VAE's name or path; a checkpoint will do.")

    def run(self, ctx: Context) -> Vae:
        from latentgraph.diffusion.checkpoints.opening import open_vae
        from latentgraph.diffusion.networks.memory import WeightMemory

        return open_vae(self.file, ctx.resource(WeightMemory))

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        path = known.file("file")
        return {} if path is None else {"vae": vae_facts(read_header(describe_vae, path).spec)}
