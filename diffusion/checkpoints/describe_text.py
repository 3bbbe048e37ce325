"""What text encoders a file or a folder holds, from its headers alone, and which of them together are a family's.

An encoder is told from the names of its tensors, and the CLIP models from each other by how many layers they have: as in
ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from ..families.text_joins import ClipSpec
from ..families.text_sets import (
    FLUX2_TEXT,
    FLUX_TEXT,
    KLEIN_TEXT,
    LDM_TEXT,
    REFINER_TEXT,
    SD1_TEXT,
    SD2_TEXT,
    SD3_TEXT,
    SDXL_TEXT,
    TEXT_SETS,
    TextSet,
)
from ..families.text_specs import EncoderKey, TextEncoderSpec
from ..layouts.structure import Shapes, StructureError
from ..layouts.text_keymaps import text_origins
from ..layouts.text_layout import text_layout
from ..layouts.text_structure import (
    BERT_NAMES,
    T5_BIAS,
    TEXT_NAMES,
    configured,
    count_layers,
    decoder_prefix,
    other_text_encoder,
    read_text_encoder,
)
from ..names import TextFamily
from .completeness import checked_part
from .folders import INDEX, Component, read_component, read_folder
from .headers import Header, HeaderError, read_header
from .parts import Part, find_shapes
from .recognise import network_prefix
from .refusals import key_groups, refuse_strangers, unbuildable
from .remembering import remembered
from .strangers import IMPOSTORS, PARTS, TEXT, without_cures
from .tokenizer_files import find_tokenizer, needs_tokenizer

FAMILIES: Mapping[TextFamily, tuple[TextSet, ...]] = {
    "auto": (SD1_TEXT, SD2_TEXT, REFINER_TEXT, SDXL_TEXT, FLUX_TEXT, FLUX2_TEXT, KLEIN_TEXT, LDM_TEXT, SD3_TEXT),
    "stable_diffusion": (SD1_TEXT, SD2_TEXT, REFINER_TEXT),
    "sdxl": (SDXL_TEXT,),
    "sd3": (SD3_TEXT,),
    "flux": (FLUX_TEXT,),
    "flux2": (FLUX2_TEXT, KLEIN_TEXT),
    "ldm": (LDM_TEXT,),
}
"""The families that a name stands for; the first that the encoders make up is meant."""


@dataclass(frozen=True, eq=False, slots=True)
class FoundEncoder:
    """A text encoder of a file or a folder, which family it is for being open. folder: its component of a diffusers folder."""

    path: Path
    key: EncoderKey
    headers: Sequence[Header]
    prefix: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    folder: str | None = None

    @property
    def shapes(self) -> Shapes:
        """The shapes of its tensors."""
        return find_shapes(self.headers, self.prefix)

    def part(self, spec: TextEncoderSpec) -> Part:
        """Returns where its tensors are; what is beside them, such as blocks that nobody reads, does not count.

        Raises HeaderError if they are not exactly those of the structure.
        """
        return checked_part(self.path, self.headers, self.prefix, text_layout(spec), partial(text_origins, spec))

    def tokenizer(self) -> Path | None:
        """Returns its tokenizer, or None if there is none or it needs no file."""
        return find_tokenizer(self.key, self.path, component=self.folder) if needs_tokenizer(self.key) else None


@dataclass(frozen=True, eq=False, slots=True)
class TextDescription:
    """Text encoders that make up those of a family. sources, parts: where each is, in the order of the encoders."""

    spec: ClipSpec
    sources: tuple[FoundEncoder, ...]
    parts: tuple[Part, ...]


@remembered
def find_encoders(path: Path | str) -> tuple[FoundEncoder, ...]:
    """Returns the text encoders of a file, of a folder of one, or of a diffusers folder. Raises HeaderError if it has none."""
    path = Path(path)
    found = tuple(_in_folder(path) if path.is_dir() else _in_file(path))
    if not found:
        _refuse(path)
    return found


def describe_text(paths: Sequence[Path | str], family: TextFamily = "auto") -> TextDescription:
    """Returns the text encoders that files hold, as those of one family. Raises HeaderError.

    family: which, as far as that is not clear from what they are.
    """
    found = [encoder for path in paths for encoder in find_encoders(path)]
    text_set = _choose(found, family)
    by_key = {encoder.key: encoder for encoder in found}
    sources, specs = [], []
    for layout in text_set.encoders:
        if (source := by_key.get(layout.key)) is not None:
            try:
                specs.append(configured(read_text_encoder(source.shapes, layout), layout, source.config))
            except StructureError as error:
                raise unbuildable(source.path, error) from None
            sources.append(source)
    parts = tuple(source.part(spec) for source, spec in zip(sources, specs, strict=True))
    return TextDescription(ClipSpec(text_set.family, tuple(specs), text_set.join), tuple(sources), parts)


def identify(shapes: Shapes) -> EncoderKey | None:
    """Returns which text encoder the tensors of these shapes are, or None if they are none."""
    if T5_BIAS in shapes:
        return "t5xxl"
    if (prefix := decoder_prefix(shapes)) is not None:
        return "qwen3" if f"{prefix}layers.0.self_attn.q_norm.weight" in shapes else "mistral"
    if any(names.tokens in shapes for names in BERT_NAMES):
        return "bert"
    clip = next((names for names in TEXT_NAMES if names.tokens in shapes), None)
    if clip is None:
        return None
    layers = count_layers(shapes, clip.fc1)
    return next(key for least, key in _CLIP_BY_LAYERS if layers >= least)


_CLIP_BY_LAYERS: tuple[tuple[int, EncoderKey], ...] = ((31, "clip_g"), (23, "clip_h"), (0, "clip_l"))
"""From how many layers on a CLIP text model is which: G has 32, H has 24 (of which a folder may lack the last), L has 12."""


def _in_file(path: Path) -> Iterator[FoundEncoder]:
    header = read_header(path)
    prefixes = (
        "",
        *dict.fromkeys(prefix for each in TEXT_SETS for layout in each.encoders for prefix in layout.prefixes),
    )
    for prefix in prefixes:
        if not prefix or any(key.startswith(prefix) for key in header.tensors):
            key = _identified(path, [header], prefix)
            if key is not None:
                yield FoundEncoder(path, _named(prefix) or key, [header], prefix)


def _identified(path: Path, headers: Sequence[Header], prefix: str) -> EncoderKey | None:
    shapes = find_shapes(headers, prefix)
    if (other := other_text_encoder(shapes)) is not None:
        cure = "FLUX.2 dev reads Mistral Small, FLUX.2 klein Qwen3, FLUX.1 and SD3 T5 XXL."
        raise HeaderError(path, other, expected="a text encoder of a supported family", cure=cure)
    return identify(shapes)


def _named(prefix: str) -> EncoderKey | None:
    """Returns which encoder a prefix names: below `text_encoders.clip_g.`, a model of any depth is CLIP-G."""
    keys = {layout.key for each in TEXT_SETS for layout in each.encoders if prefix in layout.prefixes}
    return keys.pop() if len(keys) == 1 else None


def _in_folder(path: Path) -> Iterator[FoundEncoder]:
    if not (path / INDEX).is_file():
        yield from _in_component(path, read_component(path), None)
        return
    for name, component in read_folder(path).components.items():
        if name.startswith("text_encoder") or name == LDM_TEXT.encoders[0].folder:
            yield from _in_component(path, component, name)


def _in_component(path: Path, component: Component, name: str | None) -> Iterator[FoundEncoder]:
    key = _identified(path, component.headers, "")
    if key is not None:
        yield FoundEncoder(path, key, component.headers, config=component.config, folder=name)


def _choose(found: Sequence[FoundEncoder], family: TextFamily) -> TextSet:
    seen: dict[EncoderKey, FoundEncoder] = {}
    for encoder in found:
        if encoder.key in seen:
            was = seen[encoder.key].path.name
            raise HeaderError(encoder.path, f"{encoder.key}, as in {was}", expected="another", cure="Name each once.")
        seen[encoder.key] = encoder
    sets = FAMILIES[family]
    fitting = [each for each in sets if seen.keys() <= {layout.key for layout in each.encoders}]
    whole = [each for each in fitting if each.join.optional or len(seen) == len(each.encoders)]
    if not whole:
        _refuse_set(seen, fitting or sets, bool(fitting))
    return whole[0]


def _refuse_set(seen: Mapping[EncoderKey, FoundEncoder], sets: Sequence[TextSet], incomplete: bool) -> NoReturn:
    wanted = " or ".join(f"{_listed(layout.key for layout in each.encoders)} of {each.title}" for each in sets)
    if incomplete:
        missing = [layout.key for layout in sets[0].encoders if layout.key not in seen]
        found, cure = f"{_listed(seen)} alone", f"Name the file of {_listed(missing)} as well, or another family."
        raise HeaderError(next(iter(seen.values())).path, found, expected=wanted, cure=cure)
    known = {layout.key for each in sets for layout in each.encoders}
    key = next((key for key in seen if key not in known), next(iter(seen)))
    raise HeaderError(seen[key].path, key, expected=wanted, cure="Name another file, or another family.")


def _listed(keys: Iterable[str]) -> str:
    return " and ".join(keys)


def _refuse(path: Path) -> NoReturn:
    headers = [read_header(path)] if path.is_file() else []
    keys = [key for header in headers for key in header.tensors]
    expected, cure = "a text encoder", "Name a text encoder, such as clip_l.safetensors or t5xxl_fp16.safetensors."
    if network_prefix(keys) is None:
        kinds = without_cures(kind for kind in (*IMPOSTORS, *PARTS) if kind is not TEXT)
        refuse_strangers(path, headers, kinds, expected=expected, cure=cure)
        raise HeaderError(path, key_groups(keys), expected=expected, cure=cure)
    raise HeaderError(path, "a checkpoint without text encoders", expected=expected, cure=cure)
