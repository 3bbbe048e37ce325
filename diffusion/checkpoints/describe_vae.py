"""What an autoencoder is and where its tensors are, from headers alone: without torch, before a weight is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn

from ..families.autoencoders import TINY_FORMATS, TinyFamily, VaeSpec
from ..layouts.autoencoder_keys import vae_origins
from ..layouts.autoencoder_layout import vae_layout
from ..layouts.autoencoder_structure import CONSISTENCY_MARK, TINY_LAYOUTS, has_tiny_half, read_tiny, read_vae
from ..layouts.structure import StructureError
from .completeness import checked_part
from .folders import INDEX, read_component, read_folder
from .headers import Header, HeaderError, read_floats, read_header
from .parts import Part, find_part, find_shapes
from .refusals import key_groups, refuse_strangers, unbuildable
from .remembering import remembered
from .strangers import IMPOSTORS, PARTS, TINY_CURE

Half = Literal["decoder", "encoder"]
HALVES: tuple[Half, ...] = ("decoder", "encoder")

VAE_PREFIXES = ("first_stage_model.", "vae.", "")
VAE_FOLDERS = ("vae", "vqvae")  # the second in pipelines of latent diffusion as first published
MARKS = ("decoder.conv_in.weight", CONSISTENCY_MARK)
SCALE, SHIFT = "vae_scale", "vae_shift"
"""Keys by which a file with both halves of a tiny autoencoder says which latents it speaks."""


@dataclass(frozen=True, eq=False, slots=True)
class VaeDescription:
    """What an autoencoder is, and where the tensors of each of its modules are."""

    path: Path
    spec: VaeSpec
    parts: tuple[Part, ...]


@remembered
def describe_vae(path: Path | str) -> VaeDescription:
    """Returns what a VAE is: a file of its own, the VAE of a checkpoint, or a diffusers folder. Raises HeaderError."""
    path = Path(path)
    headers = _headers(path)
    if (told := _told_format(headers)) is not None:
        return _describe_tiny(path, headers, headers, *told)
    prefix = vae_prefix_of(headers)
    if prefix is None:
        if any(_prefix_of_half(headers, half) is not None for half in HALVES):
            raise HeaderError(path, "a tiny autoencoder (TAESD)", expected="a VAE", cure=TINY_CURE)
        refuse_strangers(path, headers, (*IMPOSTORS, *PARTS), expected="a VAE")
        raise HeaderError(path, "no VAE in it", expected=f"the key {MARKS[0]}", cure="Choose another file.")
    try:
        spec = read_vae(find_shapes(headers, prefix))
    except StructureError as error:
        raise unbuildable(path, error) from None
    return VaeDescription(path, spec, (vae_part(path, headers, prefix, spec),))


def vae_part(path: Path, headers: Sequence[Header], prefix: str, spec: VaeSpec) -> Part:
    """Returns where the tensors of an autoencoder that is one network are. Raises HeaderError unless they are all there."""
    layout = vae_layout(spec)
    if layout is None:
        return find_part(headers, prefix)
    return checked_part(path, headers, prefix, layout, partial(vae_origins, spec, ""))


def describe_tiny_vae(decoder: Path | str, encoder: Path | str | None, *, family: TinyFamily) -> VaeDescription:
    """Returns what a tiny autoencoder is: TAESD's own two files, both halves in one, or diffusers' folder.

    decoder: a file with the decoder. encoder: the one with the encoder, where that is another. family: whose latents it
    speaks. Raises HeaderError.
    """
    decoder = Path(decoder)
    headers = _small_headers(decoder)
    others = headers if encoder is None else _small_headers(encoder)
    if encoder is not None and _prefix_of_half(others, "encoder") is None:
        _refuse_half(Path(encoder), others, "encoder", other="decoder")
    found = TINY_FORMATS[family]
    described = _describe_tiny(decoder, headers, others, found.scale, found.shift)
    if described.spec.latent_channels != found.channels:
        raise HeaderError(
            decoder,
            f"a tiny autoencoder of {described.spec.latent_channels} latent channels",
            expected=f"{found.channels}, as the latents of {family} have",
            cure=f"Name {found.name}, or another family.",
        )
    return described


def tiny_halves(path: Path | str) -> tuple[Half, ...]:
    """Returns which halves of a tiny autoencoder a file holds. Raises HeaderError if none."""
    path = Path(path)
    headers = _headers(path)
    found = tuple(half for half in HALVES if _prefix_of_half(headers, half) is not None)
    if not found:
        _refuse(path, headers, "a tiny autoencoder (TAESD)")
    return found


def vae_prefix_of(headers: Sequence[Header]) -> str | None:
    """Returns the prefix below which files keep an autoencoder that is one network, or None."""
    keys = {key for header in headers for key in header.tensors}
    return next((prefix for prefix in VAE_PREFIXES if any(prefix + mark in keys for mark in MARKS)), None)


def _describe_tiny(
    path: Path, headers: Sequence[Header], others: Sequence[Header], scale: float, shift: float
) -> VaeDescription:
    """headers: of the files with the decoder; others: of those with the encoder, if there is one."""
    decoder, encoder = _prefix_of_half(headers, "decoder"), _prefix_of_half(others, "encoder")
    if decoder is None:
        _refuse_half(path, headers, "decoder", other="encoder")
    shapes = None if encoder is None else find_shapes(others, encoder)
    try:
        spec = read_tiny(find_shapes(headers, decoder), shapes, scale=scale, shift=shift)
    except StructureError as error:
        raise unbuildable(path, error) from None
    parts = [find_part(headers, decoder)]
    return VaeDescription(path, spec, (*parts, find_part(others, encoder)) if encoder is not None else tuple(parts))


def _told_format(headers: Sequence[Header]) -> tuple[float, float] | None:
    """Returns the scale and the shift that a file of a tiny autoencoder states, or None."""
    holder = next((header for header in headers if SCALE in header.tensors), None)
    if holder is None or _prefix_of_half(headers, "decoder") is None:
        return None
    return read_floats(holder, SCALE)[0], read_floats(holder, SHIFT)[0] if SHIFT in holder.tensors else 0.0


def _prefix_of_half(headers: Sequence[Header], half: Half) -> str | None:
    """Returns the prefix below which files keep a half of a tiny autoencoder, or None."""
    keys = {key for header in headers for key in header.tensors}
    prefixes = (getattr(layout, half) for layout in TINY_LAYOUTS)
    return next((prefix for prefix in prefixes if has_tiny_half(keys, prefix, half)), None)


def _refuse_half(path: Path, headers: Sequence[Header], half: Half, *, other: Half) -> NoReturn:
    expected = f"the {half} of a tiny autoencoder (TAESD)"
    if _prefix_of_half(headers, other) is not None:
        raise HeaderError(path, f"its {other} alone", expected=expected, cure=f"Name the file of the {half}.")
    _refuse(path, headers, expected)


def _refuse(path: Path, headers: Sequence[Header], expected: str) -> NoReturn:
    refuse_strangers(path, headers, (*IMPOSTORS, *PARTS), expected=expected, cure="Name another file.")
    keys = [key for header in headers for key in header.tensors]
    raise HeaderError(path, key_groups(keys), expected=expected, cure="Name another file.")


def _headers(path: Path) -> Sequence[Header]:
    if path.is_file():
        return [read_header(path)]
    if (path / INDEX).is_file():
        components = read_folder(path).components
        return next((components[name].headers for name in VAE_FOLDERS if name in components), ())
    return read_component(path).headers


@remembered
def _small_headers(path: Path | str) -> Sequence[Header]:
    """The headers of a tiny autoencoder's files, which are small enough to be kept."""
    return _headers(Path(path))
