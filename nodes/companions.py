"""Files that are read along with those that inputs name: the tokenizers of text encoders that don't come with the package."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from latentgraph.diffusion.checkpoints.describe import describe
from latentgraph.diffusion.checkpoints.describe_text import find_encoders
from latentgraph.diffusion.checkpoints.tokenizer_files import (
    checkpoint_tokenizers,
    library_names,
    missing_tokenizer,
    needs_tokenizer,
)
from latentgraph.diffusion.families.text_joins import ClipSpec
from latentgraph.graph import Companion


def encoder_tokenizers(path: Path) -> Iterator[Companion]:
    """Yields the tokenizers that the text encoders of a file or folder need, by the encoder's key."""
    try:
        found = find_encoders(path)
    except (OSError, ValueError):
        return  # what is wrong with the file is told where it is described
    for encoder in found:
        if needs_tokenizer(encoder.key):
            yield Companion(encoder.key, encoder.tokenizer(), "tokenizer", library_names(encoder.key))


def tokenizers_of_checkpoint(path: Path) -> Iterator[Companion]:
    """Yields the tokenizers that the text encoders of a checkpoint need, by the encoder's key."""
    try:
        clip = describe(path).clip
    except (OSError, ValueError):
        return
    if clip is not None:
        for key, file in checkpoint_tokenizers(path, clip).items():
            yield Companion(key, file, "tokenizer", library_names(key))


def lacking_tokenizer(path: Path, clip: ClipSpec, present: Collection[str]) -> str | None:
    """Returns which tokenizer the text encoders of a file lack, and what to do about it, or None.

    present: the keys of the encoders whose tokenizers are there.
    """
    lacking = [spec.key for spec in clip.encoders if needs_tokenizer(spec.key) and spec.key not in present]
    return missing_tokenizer(lacking[0], path) if lacking else None
