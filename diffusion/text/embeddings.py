"""Textual inversions: files of a few vectors that stand for a word of a prompt, each as wide as the tokens of an encoder.

What a file holds is known from its header, without torch. Gal et al. 2022, arXiv:2208.01618; which tensor is for which encoder
as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ..checkpoints.headers import Header, HeaderError, read_header
from ..checkpoints.recognise import network_prefix
from ..checkpoints.refusals import key_groups, refuse_strangers
from ..checkpoints.strangers import EMBEDDING, IMPOSTORS, PARTS, without_cures
from ..families.text_joins import ClipSpec
from ..families.text_specs import KINDS, TextEncoderSpec

if TYPE_CHECKING:
    from torch import Tensor

_BUNDLE = "bundle_emb."  # vectors that a LoRA file carries for its own words
_EXPECTED, _CURE = "a textual inversion embedding", "Name an embedding."


@dataclass(frozen=True, eq=False, slots=True)
class Embedding:
    """A textual inversion. shapes: of its tensors by key, (K, D) or (D,)."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]

    def keys(self, encoder: str) -> list[str]:
        """Returns the keys of the vectors for an encoder: its own, or those of a bundle.

        A file that names encoders, but not this one, has none for it; one that names none has its first tensor for all.
        """
        if encoder in self.shapes:
            return [encoder]
        ends = (f".{encoder}", ".string_to_param.*")
        bundled = [key for key in self.shapes if key.startswith(_BUNDLE) and key.endswith(ends)]
        names_encoders = any(key.rpartition(".")[2] in KINDS for key in self.shapes)
        return bundled or ([] if names_encoders else [next(iter(self.shapes))])

    def misfit(self, clip: ClipSpec) -> str | None:
        """Returns why it is not one for these text encoders, as the rest of a sentence about it, or None if it is."""
        if not any(self.keys(encoder.key) for encoder in clip.encoders):
            has = " and ".join(encoder.key for encoder in clip.encoders)
            return (
                f"is for {', '.join(self.shapes)}, but the {clip.family} family has {has}; use one that was made for it"
            )
        for encoder in clip.encoders:
            for key in self.keys(encoder.key):
                if (width := self.shapes[key][-1]) != encoder.width:
                    return (
                        f"holds {width} numbers a token ({key}), but {encoder.key} of the {clip.family} family takes "
                        f"{encoder.width}; use one that was made for this family"
                    )
        return None


def read_embedding(path: Path | str) -> Embedding:
    """Returns what an embedding holds. Raises HeaderError for a file that is none, and says what it is instead."""
    header = read_header(path)
    vectors = {key: info.shape for key, info in header.tensors.items() if 0 < len(info.shape) <= 2 and info.numel}
    strange = len(vectors) < len(header.tensors) or not vectors
    if strange or network_prefix(header.tensors.keys()) is not None or _is_part(header):
        _refuse(header)
    return Embedding(header.path, vectors)


def vector_finder(files: Mapping[str, Path]) -> Callable[[str, TextEncoderSpec], Tensor | None]:
    """Returns the lookup of vectors (K, D), float32, by an embedding's name and for an encoder. files: by name."""
    embeddings = {name: read_embedding(path) for name, path in files.items()}

    def find(name: str, spec: TextEncoderSpec) -> Tensor | None:
        found = embeddings.get(name)
        return None if found is None else load_vectors(found, spec)

    return find


def load_vectors(embedding: Embedding, spec: TextEncoderSpec) -> Tensor | None:
    """Returns the vectors for an encoder, float32 (K, D), or None if there are none of its width."""
    import torch
    from safetensors import safe_open

    keys = embedding.keys(spec.key)
    if not keys or any(embedding.shapes[key][-1] != spec.width for key in keys):
        return None
    with safe_open(embedding.path, framework="pt", device="cpu") as file:
        return torch.cat([file.get_tensor(key).float().reshape(-1, spec.width) for key in keys])


def _is_part(header: Header) -> bool:
    """Returns whether a file of vectors and matrices alone is another kind of file all the same."""
    keys = list(header.tensors)
    return any(kind.keys_of(keys) for kind in _OTHERS)


_OTHERS = without_cures(kind for kind in (*IMPOSTORS, *PARTS) if kind is not EMBEDDING)


def _refuse(header: Header) -> NoReturn:
    keys = list(header.tensors)
    if network_prefix(keys) is not None:
        found = f"a checkpoint ({len(keys)} tensors, such as {keys[0]})"
        raise HeaderError(header.path, found, expected=_EXPECTED, cure=_CURE)
    refuse_strangers(header.path, [header], _OTHERS, expected=_EXPECTED, cure=_CURE)
    raise HeaderError(header.path, key_groups(keys), expected=_EXPECTED, cure=_CURE)
