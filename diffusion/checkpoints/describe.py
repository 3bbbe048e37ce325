"""What a checkpoint is and holds, from its headers alone: in milliseconds, without torch, before a weight is read.

A file is either described in full or refused with a `HeaderError` that says what it is instead. Families, and the files
that people take for checkpoints, are data in `families` and `strangers`; here is only the comparison.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..families.autoencoders import VaeSpec
from ..families.specs import DenoiserSpec, Family, ModelSpec
from ..families.text_joins import ClipSpec
from ..families.text_sets import TextEncoderLayout
from ..layouts.autoencoder_structure import read_vae
from ..layouts.kinds import kind_of
from ..layouts.structure import Shapes, StructureError, last_attention
from ..layouts.text_keymaps import text_origins
from ..layouts.text_layout import text_layout
from ..layouts.text_structure import configured, read_text_encoder
from .completeness import check_tensors, checked_part
from .describe_vae import VAE_FOLDERS, vae_part, vae_prefix_of
from .folders import INDEX, Component, Folder, read_component, read_folder
from .headers import Header, HeaderError, read_floats, read_header
from .parts import Part, find_part, find_shapes
from .recognise import UnknownFamilyError, find_prediction, known_families, network_prefix, recognise
from .refusals import key_groups, refuse_strangers, unbuildable
from .remembering import remembered
from .stated import PICTURES, PictureStats, stated_latent, stated_levels, stated_picture_stats, stated_resolution
from .strangers import IMPOSTORS, NETWORKS, PARTS


@dataclass(frozen=True, eq=False, slots=True)
class CheckpointDescription:
    """What a checkpoint is. clip and vae are None where it has no text encoders or no VAE.

    title: for people. metadata: the file's own, unchecked. model_part, clip_parts and vae_parts: where the tensors are;
    clip_parts are in the order of the encoders, vae_parts in that of the modules of the VAE.
    """

    path: Path
    family: str
    title: str
    model: ModelSpec
    clip: ClipSpec | None
    vae: VaeSpec | None
    metadata: Mapping[str, str]
    model_part: Part
    clip_parts: tuple[Part, ...]
    vae_parts: tuple[Part, ...]


@remembered
def describe(path: Path | str) -> CheckpointDescription:
    """Returns what a checkpoint is: a single safetensors file or a diffusers folder. Raises HeaderError."""
    path = Path(path)
    with _refusing(path):
        return _describe_folder(read_folder(path)) if path.is_dir() else _describe_file(read_header(path))


@remembered
def describe_network(path: Path | str) -> CheckpointDescription:
    """Returns what a denoising network is, without text encoders or a VAE. Raises HeaderError.

    It may be in a file or a folder of its own, as diffusers writes one, or in a checkpoint.
    """
    path = Path(path)
    if not path.is_dir() or (path / INDEX).is_file():
        return replace(describe(path), clip=None, clip_parts=(), vae=None, vae_parts=())
    network = _located(read_component(path))
    if network is None:
        expected = "a denoising network, or a diffusers folder with one"
        raise HeaderError(path, "a folder without weights", expected=expected, cure="Name the folder with its weights.")
    with _refusing(path):
        family, structure = _recognised(path, network)
        return _assemble(path, family, network=network, structure=structure, texts={}, vae=None)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turns what is wrong with a network into what is wrong with its file."""
    try:
        yield
    except UnknownFamilyError as error:
        raise HeaderError(path, error.found, expected="a checkpoint of a supported family", cure=error.cure) from None
    except StructureError as error:
        raise unbuildable(path, error) from None


@dataclass(frozen=True, eq=False, slots=True)
class _Located:
    """A network's tensors and, in a diffusers folder, its config."""

    headers: Sequence[Header]
    prefix: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> Shapes:
        return find_shapes(self.headers, self.prefix)

    @property
    def part(self) -> Part:
        return find_part(self.headers, self.prefix)


def _describe_file(header: Header) -> CheckpointDescription:
    path, keys = header.path, header.tensors.keys()
    refuse_strangers(path, [header], IMPOSTORS)
    prefix = network_prefix(keys)
    if prefix is None:
        _refuse_networks(path, [header])
        refuse_strangers(path, [header], PARTS)
        expected = "a denoising network, with keys model.diffusion_model.*"
        raise HeaderError(path, key_groups(keys), expected=expected, cure="Choose another file.")
    network = _Located([header], prefix)
    family, structure = _recognised(path, network, keys)
    vae_prefix = vae_prefix_of([header])
    return _assemble(
        path,
        family,
        network=network,
        structure=structure,
        texts={layout: _text_in_file(header, layout) for layout in family.text.encoders},
        vae=None if vae_prefix is None else _Located([header], vae_prefix),
        pictures=stated_picture_stats(header, PICTURES),
    )


def _describe_folder(folder: Folder) -> CheckpointDescription:
    components = folder.components
    network = _located(components.get("unet") or components.get("transformer"))
    if network is None:
        found = f"a folder with {', '.join(components) or 'no component'}"
        expected = "unet/ or transformer/ with weights"
        raise HeaderError(folder.path, found, expected=expected, cure="Download the whole folder.")
    file_keys = {f"{name}/{key}" for name, part in components.items() for key in part.tensors}
    scheduler = components["scheduler"].config if "scheduler" in components else {}
    file_keys.add(f"scheduler/{scheduler.get('_class_name')}/{scheduler.get('prediction_type')}")
    family, structure = _recognised(folder.path, network, file_keys)
    normalizer = components.get("image_normalizer")
    return _assemble(
        folder.path,
        family,
        network=network,
        structure=structure,
        texts={layout: _located(components.get(layout.folder)) for layout in family.text.encoders},
        vae=_located(next((components[name] for name in VAE_FOLDERS if name in components), None)),
        scheduler=scheduler,
        pictures=stated_picture_stats(next(iter(normalizer.headers), None) if normalizer else None, ""),
    )


def _recognised(path: Path, network: _Located, file_keys: Collection[str] = ()) -> tuple[Family, DenoiserSpec]:
    try:
        return recognise(network.shapes, file_keys=file_keys)
    except UnknownFamilyError:
        _refuse_networks(path, network.headers)
        raise


def _check_network(path: Path, network: _Located, spec: DenoiserSpec) -> None:
    """Raises HeaderError unless all tensors of a network are there, and no other; with a name for a family that is alike."""
    kind = kind_of(spec)
    try:
        check_tensors(path, network.shapes, {**kind.layout(spec), **kind.tables(spec)}, partial(kind.origins, spec))
    except HeaderError:
        _refuse_networks(path, network.headers)
        raise


def _refuse_networks(path: Path, headers: Sequence[Header]) -> None:
    refuse_strangers(path, headers, NETWORKS, expected="a checkpoint of a supported family", cure=known_families())


def _assemble(
    path: Path,
    family: Family,
    *,
    network: _Located,
    structure: DenoiserSpec,
    texts: Mapping[TextEncoderLayout, _Located | None],
    vae: _Located | None,
    pictures: PictureStats | None = None,
    scheduler: Mapping[str, Any] | None = None,
) -> CheckpointDescription:
    vae_spec = None if vae is None else read_vae(vae.shapes)
    downscale = None if vae_spec is None else vae_spec.downscale
    model = _model_spec(family, network, structure, scheduler or {}, {} if vae is None else vae.config, downscale)
    if pictures is not None and model.network.picture_width == len(pictures.mean):
        model = replace(model, picture_mean=pictures.mean, picture_std=pictures.std)
    _check_network(path, network, model.network)
    present = {layout: located for layout, located in texts.items() if located is not None}
    encoders = [configured(read_text_encoder(at.shapes, layout), layout, at.config) for layout, at in present.items()]
    clip_parts = tuple(
        checked_part(path, at.headers, at.prefix, text_layout(spec), partial(text_origins, spec))
        for spec, at in zip(encoders, present.values(), strict=True)
    )
    complete = bool(encoders) and (len(present) == len(texts) or family.text.join.optional)
    return CheckpointDescription(
        path=path,
        family=family.name,
        title=f"{family.title}, inpainting" if model.inpaint and model.extra == "mask_and_picture" else family.title,
        model=model,
        clip=ClipSpec(family.name, tuple(encoders), family.text.join, model.context_width) if complete else None,
        vae=vae_spec,
        metadata=network.headers[0].metadata,
        model_part=network.part,
        clip_parts=clip_parts if complete else (),
        vae_parts=(vae_part(path, vae.headers, vae.prefix, vae_spec),) if vae and vae_spec else (),
    )


def _model_spec(
    family: Family,
    network: _Located,
    structure: DenoiserSpec,
    scheduler: Mapping[str, Any],
    vae_config: Mapping[str, Any],
    downscale: int | None,
) -> ModelSpec:
    header = network.headers[0]
    prediction, zero_snr = find_prediction(
        family,
        file_keys=header.tensors.keys(),
        metadata=header.metadata,
        scheduler=scheduler,
        probe=_probe(family, network) if structure.in_channels == family.latent.channels else None,
    )
    resolution = (prediction == "v" and family.v_resolution) or family.resolution
    return ModelSpec(
        family=family.name,
        network=kind_of(structure).complete(structure, family, network.config),
        latent=stated_latent(family, header, vae_config=vae_config, downscale=downscale),
        prediction=prediction,
        resolution=stated_resolution(header.metadata) or resolution,
        levels=stated_levels(family, header, scheduler, zero_snr=zero_snr),
        sigma_data=family.sigma_data,
        extra=family.extra,
    )


def _probe(family: Family, network: _Located) -> Sequence[float] | None:
    """Returns the values of the tensor whose spread tells v networks from eps networks, if the family has one."""
    if family.prediction.v_probe is None:
        return None
    key = f"{network.prefix}{last_attention(network.shapes)}.{family.prediction.v_probe}"
    holder = next((header for header in network.headers if key in header.tensors), None)
    return None if holder is None else read_floats(holder, key)


def _text_in_file(header: Header, layout: TextEncoderLayout) -> _Located | None:
    for prefix in layout.prefixes:
        if any(key.startswith(prefix) for key in header.tensors):
            return _Located([header], prefix)
    return None


def _located(component: Component | None) -> _Located | None:
    return None if component is None or not component.headers else _Located(component.headers, "", component.config)
