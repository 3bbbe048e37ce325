"""A diffusers folder: its model_index.json, and for each component its config and the headers of its weight files.

Like `headers`, this reads no weights and loads no torch. Weight files are named by the folder's own index files, never
outside the folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .headers import Header, HeaderError, TensorInfo, parse_json_object, read_header

JSON_LIMIT = 50_000_000  # bytes; the largest index of shards in use is well below one megabyte
INDEX = "model_index.json"
COMPONENTS = (
    *("unet", "transformer", "vae", "vqvae"),
    *("text_encoder", "text_encoder_2", "text_encoder_3", "bert", "image_encoder", "image_normalizer", "scheduler"),
)
_CONFIGS = ("config.json", "scheduler_config.json")
_SUFFIXES = (  # in order of preference: half the bytes first; diffusers and transformers differ in the index's name
    ".fp16.safetensors",
    ".safetensors.fp16.index.json",
    ".safetensors.index.fp16.json",
    ".safetensors",
    ".safetensors.index.json",
)
_WEIGHTS = tuple(stem + suffix for stem in ("diffusion_pytorch_model", "model") for suffix in _SUFFIXES)


@dataclass(frozen=True, eq=False, slots=True)
class Component:
    """One component: its config, the files that hold its weights, and each tensor's entry."""

    path: Path
    config: Mapping[str, Any]
    headers: tuple[Header, ...]

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor of the component; offsets are within the file that holds it."""
        return {key: info for header in self.headers for key, info in header.tensors.items()}


@dataclass(frozen=True, eq=False, slots=True)
class Folder:
    """A diffusers pipeline: `index` is its model_index.json, `components` those of its subfolders that make pictures."""

    path: Path
    index: Mapping[str, Any]
    components: Mapping[str, Component]


def read_folder(path: Path | str) -> Folder:
    """Reads a diffusers folder. Raises HeaderError, naming the file, for whatever is wrong with it."""
    path = Path(path)
    if not (path / INDEX).is_file():
        raise HeaderError(
            path,
            f"a folder without {INDEX}",
            expected="a safetensors file or a diffusers folder",
            cure="Name the folder that holds unet/, vae/ and text_encoder/, or the file itself.",
        )
    index = _read_json(path / INDEX)
    names = [name for name in COMPONENTS if name in index and (path / name).is_dir()]
    return Folder(path=path, index=index, components={name: read_component(path / name) for name in names})


def read_component(path: Path) -> Component:
    """Reads one subfolder; one without weights (a scheduler, a tokenizer) has no headers."""
    configs = [path / name for name in _CONFIGS if (path / name).is_file()]
    config = _read_json(configs[0]) if configs else {}
    headers = tuple(read_header(file) for file in _weight_files(path))
    pickles = [file.name for file in sorted(path.glob("*.bin"))]
    if pickles and not headers:
        raise HeaderError(
            path,
            f"weights only as a pickle ({pickles[0]})",
            cure="Pickles can run code and are never loaded; download the .safetensors files of this model.",
        )
    _refuse_twins(path, headers)
    return Component(path=path, config=config, headers=headers)


def _weight_files(path: Path) -> list[Path]:
    """Returns the files that make up the component's weights: one, or the shards that an index names."""
    for name in _WEIGHTS:
        if (path / name).is_file():
            return _shards(path / name) if name.endswith(".json") else [path / name]
    return []


def _shards(index: Path) -> list[Path]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise HeaderError(
            index, "no weight_map from keys to files", expected="an index of shards", cure="Download it again."
        )
    names = sorted(set(weight_map.values()))
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise HeaderError(
                index, f"the shard {name!r}", expected="the name of a file beside it", cure="Download the missing file."
            )
    return [index.parent / name for name in names]


def _refuse_twins(path: Path, headers: tuple[Header, ...]) -> None:
    keys: set[str] = set()
    for header in headers:
        if twins := keys & header.tensors.keys():
            raise HeaderError(
                path, f"{min(twins)!r} in two shards", expected="each tensor once", cure="Remove the stale shards."
            )
        keys |= header.tensors.keys()


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > JSON_LIMIT:
        raise HeaderError(
            path, f"{path.stat().st_size} bytes", expected=f"at most {JSON_LIMIT}", cure="This is no diffusers file."
        )
    return parse_json_object(path, path.read_bytes())
