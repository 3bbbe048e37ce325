"""Where the tokenizer of a text encoder is looked for: in its file, beside it, in a diffusers folder, among the models.

CLIP's comes with the package. This module reads no tokenizer and loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from ..families.catalogue import FAMILIES
from ..families.text_joins import ClipSpec
from ..families.text_specs import EncoderKey
from .headers import read_header
from .remembering import remembered

GGML_MODEL, GGML_PAIRS = "tokenizer.ggml.model", "gpt2"  # what GGUF says of its vocabulary, and its name for byte pairs
KEPT_TEKKEN, KEPT_PIECES = "tekken_model", "spiece_model"
"""Tensors in which ComfyUI keeps the bytes of a tokenizer's file."""
MODELS = "tokenizers"  # the folder of tokenizers among those of models


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """The tokenizer of an encoder. files: its usual names; title: its model; model: how it cuts words, as the tokenizers
    library calls it; source: where to get it. kept: by which names an encoder's own file has it, GGUF's or ComfyUI's.
    """

    files: tuple[str, ...]
    title: str
    model: str
    source: str
    kept: frozenset[str] = frozenset()


TOKENIZERS: Mapping[EncoderKey, TokenizerFiles] = {
    "t5xxl": TokenizerFiles(
        ("tokenizer.json", "spiece.model"),
        "t5",
        "Unigram",
        "https://huggingface.co/google/t5-v1_1-xxl (spiece.model)",
        frozenset({"t5", KEPT_PIECES}),
    ),
    "qwen3": TokenizerFiles(
        ("tokenizer.json",),
        "qwen3",
        "BPE",
        "https://huggingface.co/Qwen/Qwen3-4B (tokenizer.json)",
        frozenset({GGML_PAIRS}),
    ),
    "mistral": TokenizerFiles(
        ("tokenizer.json",),
        "mistral",
        "BPE",
        "https://huggingface.co/black-forest-labs/FLUX.2-dev (tokenizer/tokenizer.json)",
        frozenset({KEPT_TEKKEN}),
    ),
    "bert": TokenizerFiles(
        ("tokenizer.json", "vocab.txt"),
        "bert",
        "WordPiece",
        "https://huggingface.co/google-bert/bert-base-uncased (vocab.txt)",
    ),
}
"""By encoder; CLIP's are not here."""


def needs_tokenizer(key: EncoderKey) -> bool:
    """Returns whether an encoder's tokenizer is a file of the user's."""
    return key in TOKENIZERS


def find_tokenizer(key: EncoderKey, encoder: Path, *, component: str | None = None) -> Path | None:
    """Returns the tokenizer of a text encoder, or None if there is none.

    encoder: its file, or its folder. component: its name in a diffusers folder `encoder`, such as "text_encoder_2".
    """
    candidates = _candidates(key, encoder, component)
    return next((path for path in candidates if path.is_file()), None)


def checkpoint_tokenizers(path: Path, clip: ClipSpec) -> dict[EncoderKey, Path | None]:
    """Returns the tokenizers of a checkpoint's text encoders, None for each that is not there; CLIP's are left out."""
    rows = [family.text.encoders for family in FAMILIES if family.name == clip.family]
    folders = {layout.key: layout.folder for layout in chain.from_iterable(rows)}
    return {
        spec.key: find_tokenizer(spec.key, path, component=folders[spec.key] if path.is_dir() else None)
        for spec in clip.encoders
        if needs_tokenizer(spec.key)
    }


def library_names(key: EncoderKey) -> tuple[str, ...]:
    """Returns the names by which an encoder's tokenizer is looked for in the models' folder of tokenizers."""
    row = TOKENIZERS[key]
    return tuple(f"{row.title}/{name}" for name in row.files) + tuple(row.title + Path(n).suffix for n in row.files)


def missing_tokenizer(key: EncoderKey, encoder: Path | None = None) -> str:
    """Returns what to do about a tokenizer that is not there."""
    row = TOKENIZERS[key]
    beside = f"{encoder.parent} or " if encoder is not None and encoder.suffix else ""
    name = row.title + Path(row.files[-1]).suffix
    return (
        f"the tokenizer of {key} is not there ({' or '.join(row.files)}); get it from {row.source} and put it into "
        f"{beside}{MODELS}/ of the models folder, as {name}"
    )


@remembered
def _kept_in(path: Path | str) -> frozenset[str]:
    """Returns by which names a file has a tokenizer with it: none if it has none or can't be read."""
    try:
        header = read_header(path)
    except (OSError, ValueError):
        return frozenset()
    named = header.metadata.get(GGML_MODEL)
    return frozenset({KEPT_TEKKEN, KEPT_PIECES} & header.tensors.keys()) | ({named} if named else frozenset())


def _candidates(key: EncoderKey, encoder: Path, component: str | None) -> Iterator[Path]:
    row = TOKENIZERS[key]
    if row.kept and encoder.is_file() and row.kept & _kept_in(encoder):
        yield encoder
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
        yield from (parent / MODELS / name for name in library_names(key))
