"""Where things are on this machine: caches, models, and the names that documents may use for files."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from latentgraph.graph import FolderResolver, LatentGraphError

if TYPE_CHECKING:
    from latentgraph.server.files.resolving import ServerResolver

CACHE_VARIABLE = "LATENTGRAPH_CACHE"
MODELS_VARIABLE = "LATENTGRAPH_MODELS"
DATA_VARIABLE = "LATENTGRAPH_DATA"

PREVIEW_FOLDER = "vae_approx"
"""The folder below the models folder whose tiny decoders show what runs have so far."""

_SUFFIXES = {
    "checkpoint": (".safetensors", ".ckpt", ".gguf"),  # a .ckpt is found, and refused with words that help
    "diffusion_model": (".safetensors", ".gguf"),
    "vae": (".safetensors", ".pt", ".ckpt"),
    "tiny_vae": (".safetensors", ".pth"),
    "text_encoder": (".safetensors", ".gguf", ".pt", ".bin"),
    "tokenizer": (".json", ".model", ".txt"),
    "clip_vision": (".safetensors", ".pt", ".bin"),
    "lora": (".safetensors", ".pt", ".ckpt", ".bin"),
    "ip_adapter": (".safetensors", ".bin"),
    "style_model": (".safetensors", ".pth", ".bin"),
    "upscale_model": (".safetensors", ".pth", ".pt", ".ckpt"),
    "controlnet": (".safetensors", ".pth", ".pt", ".ckpt", ".bin"),
    "embedding": (".safetensors", ".pt", ".bin"),
    "image": (".png", ".jpg", ".jpeg", ".webp"),
    "mask": (".png", ".jpg", ".jpeg", ".webp"),
}
_MODEL_FOLDERS = {
    "checkpoint": ("checkpoints",),
    "diffusion_model": ("diffusion_models", "unet"),
    "vae": ("vae", "checkpoints"),  # a checkpoint holds a VAE, too
    "tiny_vae": (PREVIEW_FOLDER,),
    "text_encoder": ("text_encoders", "clip"),
    "tokenizer": ("tokenizers",),
    "clip_vision": ("clip_vision",),
    "lora": ("loras",),
    "controlnet": ("controlnet", "t2i_adapter"),
    "ip_adapter": ("ipadapter", "ip_adapters"),
    "style_model": ("style_models",),
    "upscale_model": ("upscale_models",),
    "embedding": ("embeddings",),
}


MODEL_FOLDERS = tuple(dict.fromkeys(name for names in _MODEL_FOLDERS.values() for name in names))
"""The folders below the models folder, each for a kind of file."""


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Returns the user's cache folder for latentgraph: LATENTGRAPH_CACHE if set, else the platform's usual place."""
    if chosen := environment.get(CACHE_VARIABLE):
        return Path(chosen)
    return _user_folder(environment, "XDG_CACHE_HOME", ".cache", "Caches") / "latentgraph"


def models_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Returns the folder that holds `checkpoints/`, `loras/` and so on: LATENTGRAPH_MODELS if set, else the usual place."""
    if chosen := environment.get(MODELS_VARIABLE):
        return Path(chosen)
    return _user_folder(environment, "XDG_DATA_HOME", ".local/share", "Application Support") / "latentgraph" / "models"


def data_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Returns the folder of the server's jobs and uploads: LATENTGRAPH_DATA if set, else the platform's usual place."""
    if chosen := environment.get(DATA_VARIABLE):
        return Path(chosen)
    return _user_folder(environment, "XDG_DATA_HOME", ".local/share", "Application Support") / "latentgraph" / "server"


def make_resolver(models: Path) -> FolderResolver:
    """Returns the resolver of the command: bundled names, paths, and what lies in the folders below `models`."""
    return FolderResolver(bundled=_bundled(), folders=_model_roots(models), suffixes=_SUFFIXES)


def make_server_resolver(models: Path, uploads: Path) -> ServerResolver:
    """Returns the resolver of a server and its workers: bundled names, uploads, and plain names below `models`."""
    from latentgraph.server.files.resolving import ServerResolver

    return ServerResolver(uploads, bundled=_bundled(), folders=_model_roots(models), suffixes=_SUFFIXES)


def bundled_workflows() -> dict[str, Path]:
    """Returns the workflows that come with the package, by name."""
    folder = Path(str(files("latentgraph.workflows")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _bundled() -> Mapping[str, Mapping[str, Path]]:
    emoji = Path(str(files("latentgraph.models") / "emoji.safetensors"))
    return {"checkpoint": {"emoji": emoji}, "vae": {"emoji": emoji}}


def _model_roots(models: Path) -> Mapping[str, Sequence[Path]]:
    return {kind: tuple(models / folder for folder in names) for kind, names in _MODEL_FOLDERS.items()}


def check_writable(folder: Path, what: str, cure: str) -> None:
    """Raises LatentGraphError if nothing can be written into a folder, or if it is not there and can't be made."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise LatentGraphError(f"the {what} {str(folder)!r} can't be used: {place} is a file; {cure}")
    if not os.access(place, os.W_OK | os.X_OK):
        raise LatentGraphError(f"the {what} {str(folder)!r} can't be written: {place} is read-only; {cure}")


def _user_folder(environment: Mapping[str, str], variable: str, home: str, mac: str) -> Path:
    if sys.platform == "win32":
        return Path(environment.get("LOCALAPPDATA") or Path.home())
    if sys.platform == "darwin":
        return Path.home() / "Library" / mac
    return Path(environment.get(variable) or Path.home() / home)
