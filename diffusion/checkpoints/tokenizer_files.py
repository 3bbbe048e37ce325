"""Where the tokenizer of a text encoder is looked for: beside the encoder's file, in a diffusers folder, among the models.

CLIP's comes with the package. This module reads no tokenizer and loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .text_specs import TextEncoderSpec, TextKind

MODELS = "tokenizers"  # the folder of tokenizers among those of models


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """The tokenizer of a kind of encoder. files: its usual names; title: its model; model: how it cuts words, as the tokenizers
    library calls it; source: where to get it.
    """

    files: tuple[str, ...]
    title: str
    model: str
    source: str


TOKENIZERS: Mapping[TextKind, TokenizerFiles] = {
    "t5": TokenizerFiles(
        ("tokenizer.json", "spiece.model"), "t5", "Unigram", "https://huggingface.co/google/t5-v1_1-xxl (spiece.model)"
    ),
    "bert": TokenizerFiles(
        ("tokenizer.json", "vocab.txt"),
        "bert",
        "WordPiece",
        "https://huggingface.co/google-bert/bert-base-uncased (vocab.txt)",
    ),
}
"""By kind; CLIP is not here."""


def needs_tokenizer(spec: TextEncoderSpec) -> bool:
    """Returns whether an encoder's tokenizer is a file of the user's."""
    return spec.kind in TOKENIZERS


def find_tokenizer(spec: TextEncoderSpec, encoder: Path, *, component: str | None = None) -> Path | None:
    """Returns the tokenizer of a text encoder, or None if there is none.

    encoder: its file, or its folder. component: its name in a diffusers folder `encoder`, such as "text_encoder_2".
    """
    candidates = _candidates(spec.kind, encoder, component)
    return next((path for path in candidates if path.is_file()), None)


def library_names(kind: TextKind) -> tuple[str, ...]:
    """Returns the names by which a kind's tokenizer is looked for in the models' folder of tokenizers."""
    row = TOKENIZERS[kind]
    return tuple(f"{row.title}/{name}" for name in row.files) + tuple(row.title + Path(n).suffix for n in row.files)


def missing_tokenizer(spec: TextEncoderSpec, encoder: Path | None = None) -> str:
    """Returns what to do about a tokenizer that is not there."""
    row = TOKENIZERS[spec.kind]
    beside = f"{encoder.parent} or " if encoder is not None and encoder.suffix else ""
    name = row.title + Path(row.files[-1]).suffix
    return (
        f"the tokenizer of {spec.key} is not there ({' or '.join(row.files)}); get it from {row.source} and put it into "
        f"{beside}{MODELS}/ of the models folder, as {name}"
    )


def _candidates(kind: TextKind, encoder: Path, component: str | None) -> Iterator[Path]:
    row = TOKENIZERS[kind]
    if component is not None:
        folder = component.replace("text_encoder", "tokenizer") if "text_encoder" in component else "tokenizer"
        yield from (encoder / folder / name for name in row.files)
        return
    if encoder.is_dir():
        yield from (encoder / name for name in row.files)
    else:
        yield from (encoder.with_name(f"{encoder.stem}.{name}") for name in row.files)
        yield from (encoder.parent / name for name in row.files)
    for parent in list(encoder.parents)[:3]:
        yield from (parent / MODELS / name for name in library_names(kind))
