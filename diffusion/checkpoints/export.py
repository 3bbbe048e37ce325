"""A model written as one safetensors file, in the layout that its family's checkpoints were published in, or its parts apart.

The tensors go from the networks in memory straight into the file, one part after the other, so no second copy of the weights is
made. Adapters and mixtures are part of what is written.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from ..families.catalogue import FAMILIES
from ..families.specs import Family, ModelSpec
from ..families.text_specs import TextEncoderSpec
from ..layouts.autoencoder_keys import vae_destinations
from ..layouts.keymaps import Destination
from ..layouts.kinds import kind_of
from ..layouts.text_keymaps import text_destinations
from ..model import Model
from ..names import WeightFormat
from ..networks.autoencoders import build_vae
from ..networks.building import build_denoiser
from ..networks.text_building import build_text_encoder
from ..pictures.saving import numbered_file
from ..types import Clip, Vae
from .stated import statements

NETWORK_PREFIX = "model.diffusion_model."
OPEN_CLIP_ENDING = ".model."  # of the prefix below which a family keeps a text encoder in OpenCLIP's layout
_FORMATS: Mapping[WeightFormat, tuple[torch.dtype, str]] = {
    "float16": (torch.float16, "F16"),
    "bfloat16": (torch.bfloat16, "BF16"),
    "float32": (torch.float32, "F32"),
}

OnTensor = Callable[[int, int], None]
"""Called with how many tensors are written, and of how many."""


def save_checkpoint(
    folder: Path,
    *,
    prefix: str,
    model: Model,
    clip: Clip | None = None,
    vae: Vae | None = None,
    format: WeightFormat = "float16",
    text: Mapping[str, str] | None = None,
    on_tensor: OnTensor | None = None,
) -> Path:
    """Writes a checkpoint as `{prefix}_{number:05}_.safetensors` and returns its path; see `saving` for names.

    text: metadata by keyword, such as the workflow.
    """
    family = next(row for row in FAMILIES if row.name == model.spec.family)
    parts = [_Part(model, NETWORK_PREFIX, _network_entries(model)), *_text_parts(family, clip)]
    if vae is not None:
        parts.append(_Part(vae, family.vae_prefix, _vae_entries(vae)))
    stated, marks = statements(family, model.spec), _marks(family, model.spec)
    about = _metadata(model.spec) | dict(text or {})
    return _save(folder, prefix, parts, format, text=about, stated=stated, marks=marks, on_tensor=on_tensor)


def save_vae(
    folder: Path,
    *,
    prefix: str,
    vae: Vae,
    format: WeightFormat = "float16",
    text: Mapping[str, str] | None = None,
    on_tensor: OnTensor | None = None,
) -> Path:
    """Writes an autoencoder as a file of its own, in its makers' layout, and returns its path; else as `save_checkpoint`."""
    return _save(folder, prefix, [_Part(vae, "", _vae_entries(vae))], format, text=text or {}, on_tensor=on_tensor)


def save_text_encoders(
    folder: Path,
    *,
    prefix: str,
    clip: Clip,
    format: WeightFormat = "float16",
    text: Mapping[str, str] | None = None,
    on_tensor: OnTensor | None = None,
) -> list[Path]:
    """Writes each text encoder as a file of its own, in transformers' layout, and returns their paths.

    Their names are `{prefix}_{key}_{number:05}_.safetensors`, by the key of the encoder, such as clip_l.
    """
    return [
        _save(folder, f"{prefix}_{spec.key}", [_text_part(clip, spec)], format, text=text or {}, on_tensor=on_tensor)
        for spec in clip.spec.encoders
    ]


def _save(
    folder: Path,
    prefix: str,
    parts: Sequence[_Part],
    format: WeightFormat,
    *,
    text: Mapping[str, str],
    stated: Mapping[str, Sequence[float]] | None = None,
    marks: Sequence[str] = (),
    on_tensor: OnTensor | None = None,
) -> Path:
    dtype, code = _FORMATS[format]
    stated = stated or {}
    entries = [(part.prefix + entry.destination.key, entry.shape) for part in parts for entry in part.entries]
    header = _header(entries, stated, marks, code, dtype.itemsize, text)
    numbers = count(1)

    def on_written() -> None:
        if on_tensor is not None:
            on_tensor(next(numbers), len(entries))

    with numbered_file(folder, prefix=prefix, suffix=".safetensors") as target:
        target.file.write(header)
        for values in stated.values():
            _write(target.file, torch.tensor(values), torch.float32)
        for part in parts:
            _write_part(target.file, part, dtype, on_written)
    return target.path


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor of the file: where it comes from, and its shape. network: the key of a text encoder, or None."""

    destination: Destination
    shape: tuple[int, ...]
    network: str | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """The tensors of one handle that lie below a prefix."""

    handle: Model | Clip | Vae
    prefix: str
    entries: Sequence[_Entry]


def _network_entries(model: Model) -> list[_Entry]:
    spec = model.spec.network
    shapes = _shapes(build_denoiser(spec))
    return [_entry(destination, shapes) for destination in kind_of(spec).destinations(spec, shapes)]


def _vae_entries(vae: Vae) -> list[_Entry]:
    shapes = _shapes(build_vae(vae.spec))
    return [_entry(destination, shapes) for destination in vae_destinations(vae.spec, shapes)]


def _text_parts(family: Family, clip: Clip | None) -> Iterator[_Part]:
    if clip is None:
        return
    prefixes = {layout.key: layout.prefixes[0] for layout in family.text.encoders if layout.prefixes}
    for spec in clip.spec.encoders:
        yield _text_part(clip, spec, prefixes[spec.key])


def _text_part(clip: Clip, spec: TextEncoderSpec, prefix: str = "") -> _Part:
    shapes = _shapes(build_text_encoder(spec))
    destinations = text_destinations(spec, shapes, open_clip=prefix.endswith(OPEN_CLIP_ENDING))
    return _Part(clip, prefix, [_entry(destination, shapes, spec.key) for destination in destinations])


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _entry(destination: Destination, shapes: Mapping[str, tuple[int, ...]], network: str | None = None) -> _Entry:
    first, *rest = (shapes[name] for name in destination.names)
    shape = (first[0] + sum(other[0] for other in rest), *first[1:])
    shape = shape[::-1] if destination.transposed else shape
    return _Entry(destination, (*shape, 1, 1) if destination.kernel else shape, network)


def _joined(networks: Any, entry: _Entry) -> Tensor:
    network: nn.Module = networks if entry.network is None else networks[entry.network]
    places = [name.rpartition(".") for name in entry.destination.names]
    tensors: list[Tensor] = [getattr(network.get_submodule(path), leaf) for path, _, leaf in places]
    return stacked(tensors, entry.destination).reshape(entry.shape)


def stacked(tensors: Sequence[Tensor], destination: Destination) -> Tensor:
    """Returns a tensor of the file, made of the network's tensors that it holds."""
    tensor = torch.cat(list(tensors)) if len(tensors) > 1 else tensors[0]
    if destination.rows:
        ranges = [torch.arange(start, stop) for rows in destination.rows for start, stop in rows]
        tensor = tensor[torch.cat(ranges).argsort()]
    return tensor.T if destination.transposed else tensor


def _write_part(file: BinaryIO, part: _Part, dtype: torch.dtype, on_written: Callable[[], None]) -> None:
    with part.handle.weights.use() as network, torch.no_grad():
        for entry in part.entries:
            _write(file, _joined(network, entry), dtype)
            on_written()


def _write(file: BinaryIO, tensor: Tensor, dtype: torch.dtype) -> None:
    flat = tensor.detach().to("cpu", dtype).contiguous().reshape(-1)
    file.write(flat.view(torch.uint8).numpy().data)


def _header(
    entries: Sequence[tuple[str, tuple[int, ...]]],
    stated: Mapping[str, Sequence[float]],
    marks: Sequence[str],
    code: str,
    size: int,
    text: Mapping[str, str],
) -> bytes:
    """Returns the header of a safetensors file: what is stated comes first, in float32, and the tensors follow one another.

    marks: empty tensors.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **text}}
    end = 0
    for key, values in stated.items():
        begin, end = end, end + 4 * len(values)
        header[key] = {"dtype": "F32", "shape": [len(values)], "data_offsets": [begin, end]}
    for key, shape in entries:
        begin, end = end, end + prod(shape) * size
        header[key] = {"dtype": code, "shape": shape, "data_offsets": [begin, end]}
    header |= {mark: {"dtype": code, "shape": [0], "data_offsets": [end, end]} for mark in marks}
    packed = json.dumps(header, separators=(",", ":")).encode()
    packed += b" " * (-len(packed) % 8)  # the tensors begin at a multiple of eight
    return struct.pack("<Q", len(packed)) + packed


def _marks(family: Family, spec: ModelSpec) -> list[str]:
    """Returns the keys by which a file of the family shows what its network predicts."""
    rule = family.prediction
    marks = [rule.v_key if spec.prediction == "v" else None, rule.zero_snr_key if spec.zero_terminal_snr else None]
    return [mark for mark in marks if mark is not None]


def _metadata(spec: ModelSpec) -> dict[str, str]:
    """Returns what Stability AI's modelspec 1.0 says of a model, as far as it is read again."""
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.prediction_type": "v" if spec.prediction == "v" else "epsilon",
        "modelspec.resolution": f"{spec.resolution}x{spec.resolution}",
    }
