"""Opens checkpoints: from a path to a model, text encoders and a VAE. No weights are read here; see `networks.memory`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..networks.memory import WeightMemory, Weights
from ..networks.sources import DenoiserSource, TextSource, VaeSource, VisionSource
from ..types import Clip, ClipVision, Model, Vae
from .autoencoders import TinyFamily
from .describe import CheckpointDescription, describe, describe_network
from .describe_vae import VaeDescription, describe_tiny_vae, describe_vae
from .vision import describe_vision


@dataclass(frozen=True, eq=False, slots=True)
class Checkpoint:
    """The parts of a checkpoint. clip and vae are None where it has no text encoders or no VAE."""

    model: Model
    clip: Clip | None
    vae: Vae | None
    description: CheckpointDescription


def open_checkpoint(path: Path | str, memory: WeightMemory) -> Checkpoint:
    """Returns the parts of a safetensors file or a diffusers folder, their weights still on disk. Raises HeaderError."""
    found = describe(path)
    return Checkpoint(
        model=Model(found.model, Weights(memory, DenoiserSource(found.model.network, found.model_part))),
        clip=Clip(found.clip, Weights(memory, TextSource(found.clip, found.clip_parts))) if found.clip else None,
        vae=Vae(found.vae, Weights(memory, VaeSource(found.vae, found.vae_parts))) if found.vae else None,
        description=found,
    )


def open_network(path: Path | str, memory: WeightMemory) -> Model:
    """Returns the denoising network of a file or a folder, its weights still on disk. Raises HeaderError."""
    found = describe_network(path)
    return Model(found.model, Weights(memory, DenoiserSource(found.model.network, found.model_part)))


def open_vae(path: Path | str, memory: WeightMemory) -> Vae:
    """Returns the VAE of a VAE file, of a checkpoint or of a diffusers folder. Raises HeaderError."""
    return _opened(describe_vae(path), memory)


def open_tiny_vae(decoder: Path | str, encoder: Path | str | None, memory: WeightMemory, *, family: TinyFamily) -> Vae:
    """Returns the tiny autoencoder of a file with its decoder, and of one with its encoder. Raises HeaderError."""
    return _opened(describe_tiny_vae(decoder, encoder, family=family), memory)


def open_vision(path: Path | str, memory: WeightMemory) -> ClipVision:
    """Returns the vision tower of a file, of an unCLIP checkpoint or of a folder. Raises HeaderError."""
    found = describe_vision(path)
    return ClipVision(found.spec, Weights(memory, VisionSource(found.spec, found.part)))


def _opened(found: VaeDescription, memory: WeightMemory) -> Vae:
    return Vae(found.spec, Weights(memory, VaeSource(found.spec, found.parts)))
