"""Opens checkpoints: from a path to a model, text encoders and a VAE. No weights are read here; see `networks.memory`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ..families.autoencoders import TinyFamily
from ..families.text_joins import ClipSpec
from ..families.text_specs import EncoderKey
from ..model import Model
from ..names import PrecisionChoice, TextFamily
from ..networks.memory import WeightMemory, Weights
from ..networks.sources import DenoiserSource, TextSource, VaeSource, VisionSource
from ..types import Clip, ClipVision, Vae
from .describe import CheckpointDescription, describe, describe_network
from .describe_text import describe_text
from .describe_vae import VaeDescription, describe_tiny_vae, describe_vae
from .parts import Part, file_id
from .tokenizer_files import checkpoint_tokenizers
from .vision import describe_vision

Handle = TypeVar("Handle", Model, Clip, ClipVision, Vae)


@dataclass(frozen=True, eq=False, slots=True)
class Checkpoint:
    """The parts of a checkpoint. clip and vae are None where it has no text encoders or no VAE."""

    model: Model
    clip: Clip | None
    vae: Vae | None
    description: CheckpointDescription


Tokenizers = Mapping[str, Path]
"""The tokenizer files of text encoders, by key. CLIP's tokenizer comes with the package."""


def open_checkpoint(path: Path | str, memory: WeightMemory, tokenizers: Tokenizers | None = None) -> Checkpoint:
    """Returns the parts of a safetensors file or a diffusers folder, their weights still on disk. Raises HeaderError.

    tokenizers: None looks for them beside the file.
    """
    found = describe(path)
    if tokenizers is None and found.clip is not None:
        tokenizers = _present(checkpoint_tokenizers(Path(path), found.clip))
    return Checkpoint(
        model=Model(found.model, Weights(memory, DenoiserSource(found.model.network, found.model_part))),
        clip=_clip(found.clip, found.clip_parts, memory, tokenizers or {}) if found.clip else None,
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


def open_text(
    paths: Sequence[Path | str],
    memory: WeightMemory,
    *,
    family: TextFamily = "auto",
    tokenizers: Tokenizers | None = None,
) -> Clip:
    """Returns the text encoders of files or folders, as those of one family. Raises HeaderError.

    family: see `describe_text`. tokenizers: None looks for them beside the files.
    """
    found = describe_text(paths, family)
    if tokenizers is None:
        tokenizers = _present({source.key: source.tokenizer() for source in found.sources})
    return _clip(found.spec, found.parts, memory, tokenizers)


def open_vision(path: Path | str, memory: WeightMemory) -> ClipVision:
    """Returns the vision tower of a file, of an unCLIP checkpoint or of a folder. Raises HeaderError."""
    found = describe_vision(path)
    return ClipVision(found.spec, Weights(memory, VisionSource(found.spec, found.part)))


def in_precision(handle: Handle, precision: PrecisionChoice) -> Handle:
    """Returns a handle whose network is loaded in number formats of its own; "default" leaves it to the run."""
    if precision == "default":
        return handle
    return replace(handle, weights=replace(handle.weights, precision=precision))


def _clip(spec: ClipSpec, parts: tuple[Part, ...], memory: WeightMemory, tokenizers: Tokenizers) -> Clip:
    keys = (encoder.key for encoder in spec.encoders)
    files = tuple((key, file_id(tokenizers[key])) for key in keys if key in tokenizers)
    return Clip(spec, Weights(memory, TextSource(spec, parts)), tokenizers=files)


def _present(tokenizers: Mapping[EncoderKey, Path | None]) -> Tokenizers:
    return {key: path for key, path in tokenizers.items() if path is not None}


def _opened(found: VaeDescription, memory: WeightMemory) -> Vae:
    return Vae(found.spec, Weights(memory, VaeSource(found.spec, found.parts)))
