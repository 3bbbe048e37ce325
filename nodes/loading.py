"""Nodes that open weights. They give light handles: weights are read when something first uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from latentgraph.diffusion.checkpoints.describe import describe, describe_network
from latentgraph.diffusion.checkpoints.describe_vae import describe_tiny_vae, describe_vae
from latentgraph.diffusion.checkpoints.vision import describe_vision
from latentgraph.diffusion.families.autoencoders import TinyFamily
from latentgraph.diffusion.model import Model
from latentgraph.diffusion.names import PrecisionChoice, VaePrecisionChoice
from latentgraph.diffusion.types import Clip, ClipVision, Vae
from latentgraph.graph import ABSENT, ComfyName, Context, Facts, FileInput, Known, Node, OutputFacts

from .companions import lacking_tokenizer, tokenizers_of_checkpoint
from .facts import clip_facts, model_facts, read_header, vae_facts, vision_facts

PRECISION = "The number formats that it is loaded in; default is what the run asks for."


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

    file: Annotated[Path, FileInput("checkpoint", tokenizers_of_checkpoint)] = Field(
        description="A checkpoint's name or path; 'emoji' is built in."
    )

    precision: PrecisionChoice = Field("default", description=PRECISION)

    def run(self, ctx: Context) -> LoadedCheckpoint:
        from latentgraph.diffusion.checkpoints.opening import in_precision, open_checkpoint
        from latentgraph.diffusion.networks.memory import WeightMemory

        checkpoint = open_checkpoint(self.file, ctx.resource(WeightMemory), ctx.companions or None)
        return LoadedCheckpoint(
            in_precision(checkpoint.model, self.precision),
            in_precision(checkpoint.clip, self.precision) if checkpoint.clip else None,
            in_precision(checkpoint.vae, self.precision) if checkpoint.vae else None,
        )

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        path = known.file("file")
        return {} if path is None else _parts(path, known)


class LoadedUnclipCheckpoint(NamedTuple):
    """The parts of an unCLIP checkpoint; clip_vision reads the pictures that it is told of."""

    model: Model
    clip: Clip | None
    vae: Vae | None
    clip_vision: ClipVision


class LoadUnclipCheckpoint(
    Node, version=1, lane="io", cached=False, comfy=ComfyName("unCLIPCheckpointLoader", {"file": "ckpt_name"})
):
    """Open an unCLIP checkpoint, which makes variations of pictures: as LoadCheckpoint does, and its vision tower.

    A single safetensors file or a diffusers folder.
    """

    file: Annotated[Path, FileInput("checkpoint")] = Field(description="A checkpoint's name or path.")
    precision: PrecisionChoice = Field("default", description=PRECISION)

    def run(self, ctx: Context) -> LoadedUnclipCheckpoint:
        from latentgraph.diffusion.checkpoints.opening import in_precision, open_checkpoint, open_vision
        from latentgraph.diffusion.networks.memory import WeightMemory

        memory = ctx.resource(WeightMemory)
        checkpoint = open_checkpoint(self.file, memory)
        return LoadedUnclipCheckpoint(
            in_precision(checkpoint.model, self.precision),
            in_precision(checkpoint.clip, self.precision) if checkpoint.clip else None,
            in_precision(checkpoint.vae, self.precision) if checkpoint.vae else None,
            in_precision(open_vision(self.file, memory), self.precision),
        )

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        path = known.file("file")
        if path is None:
            return {}
        return {**_parts(path, known), "clip_vision": vision_facts(read_header(describe_vision, path).spec)}


class LoadDiffusionModel(
    Node, version=1, lane="io", cached=False, comfy=ComfyName("UNETLoader", {"file": "unet_name"})
):
    """Open a denoising network that has a file to itself, as FLUX and SD3 are published.

    Its text encoders and its VAE have loaders of their own. A safetensors or GGUF file in the layout of its makers or of
    diffusers, the folder that diffusers wrote it into, or a checkpoint.
    """

    file: Annotated[Path, FileInput("diffusion_model")] = Field(description="The network's name or path.")
    precision: PrecisionChoice = Field("default", description=PRECISION)

    def run(self, ctx: Context) -> Model:
        from latentgraph.diffusion.checkpoints.opening import in_precision, open_network
        from latentgraph.diffusion.networks.memory import WeightMemory

        return in_precision(open_network(self.file, ctx.resource(WeightMemory)), self.precision)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        path = known.file("file")
        return {} if path is None else {"model": model_facts(read_header(describe_network, path).model)}


class LoadVAE(Node, version=1, lane="io", cached=False, comfy=ComfyName("VAELoader", {"file": "vae_name"})):
    """Open an autoencoder: a VAE file, or the VAE of a checkpoint or of a diffusers folder."""

    file: Annotated[Path, FileInput("vae")] = Field(description="A VAE's name or path; a checkpoint will do.")
    precision: VaePrecisionChoice = Field("default", description=PRECISION)

    def run(self, ctx: Context) -> Vae:
        from latentgraph.diffusion.checkpoints.opening import in_precision, open_vae
        from latentgraph.diffusion.networks.memory import WeightMemory

        return in_precision(open_vae(self.file, ctx.resource(WeightMemory)), self.precision)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        path = known.file("file")
        return {} if path is None else {"vae": vae_facts(read_header(describe_vae, path).spec)}


class LoadTinyVAE(Node, version=1, lane="io", cached=False):
    """Open a tiny autoencoder (TAESD and its kin), which encodes and decodes many times faster and a little worse.

    Its files do not tell whose latents it speaks, so `family` does: `taesd` is for sd1 and sd2, `taesdxl`, `taesd3` and `taef1`
    for the others. A decoder alone decodes.
    """

    decoder: Annotated[Path, FileInput("tiny_vae")] = Field(
        description="The file with the decoder, or with both halves; or a diffusers folder."
    )
    family: TinyFamily = Field(description="The family whose latents it speaks.")
    encoder: Annotated[Path, FileInput("tiny_vae")] | None = Field(
        None, description="The file with the encoder, where that is another."
    )
    precision: VaePrecisionChoice = Field("default", description=PRECISION)

    def run(self, ctx: Context) -> Vae:
        from latentgraph.diffusion.checkpoints.opening import in_precision, open_tiny_vae
        from latentgraph.diffusion.networks.memory import WeightMemory

        vae = open_tiny_vae(self.decoder, self.encoder, ctx.resource(WeightMemory), family=self.family)
        return in_precision(vae, self.precision)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        decoder, encoder, family = known.file("decoder"), known.file("encoder"), known.value("family")
        if decoder is None or family is None:
            return {}
        found = read_header(lambda path: describe_tiny_vae(path, encoder, family=family), decoder)
        return {"vae": vae_facts(found.spec)}


def _parts(path: Path, known: Known) -> OutputFacts:
    """Returns the facts of the parts of a checkpoint; one that it lacks is absent."""
    found = read_header(describe, path)
    lacking = lacking_tokenizer(path, found.clip, known.companions) if found.clip else None
    no_clip: Facts = {ABSENT: lacking or f"{path.name} has no text encoder; load one with LoadTextEncoder"}
    no_vae: Facts = {ABSENT: f"{path.name} has no VAE; load one with LoadVAE"}
    return {
        "model": model_facts(found.model),
        "clip": clip_facts(found.clip) if found.clip and not lacking else no_clip,
        "vae": vae_facts(found.vae, found.model) if found.vae else no_vae,
    }
