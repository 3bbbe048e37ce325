"""Where things are on this machine: caches, models, and the names that documents may use for files."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from latentgraph.graph import FolderResolver

CACHE_VARIABLE = "LATENTGRAPH_CACHE"
MODELS_VARIABLE = "LATENTGRAPH_MODELS"

_SUFFIXES = {
    "checkpoint": (".safetensors",),
    "vae": (".safetensors",),
    "image": (".png", ".jpg", ".jpeg", ".webp"),
    "mask": (".png", ".jpg", ".jpeg", ".webp"),
}
_MODEL_FOLDERS = {"checkpoint": "checkpoints", "vae": "vae"}


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Returns the user's cache folder for latentgraph: LATENTGRAPH_CACHE if set, else the platform's usual place."""
    if chosen := environment.get(CACHE_VARIABLE):
        return Path(chosen)
    return _user_folder(environment, "XDG_CACHE_HOME", ".cache", "Caches") / "latentgraph"


def models_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Returns the folder that holds `checkpoints/` and `vae/`: LATENTGRAPH_MODELS if set, else the platform's usual place."""
    if chosen := environment.get(MODELS_VARIABLE):
        return Path(chosen)
    return _user_folder(environment, "XDG_DATA_HOME", ".local/share", "Application Support") / "latentgraph" / "models"


def make_resolver(models: Path) -> FolderResolver:
    """Returns the resolver of the command: bundled names, paths, and what lies in the folders below `models`."""
    return FolderResolver(
        bundled={"checkpoint": {"emoji": Path(str(files("latentgraph.models") / "emoji.safetensors"))}},
        folders={kind: (models / folder,) for kind, folder in _MODEL_FOLDERS.items()},
        suffixes=_SUFFIXES,
    )


def _user_folder(environment: Mapping[str, str], variable: str, home: str, mac: str) -> Path:
    if sys.platform == "win32":
        return Path(environment.get("LOCALAPPDATA") or Path.home())
    if sys.platform == "darwin":
        return Path.home() / "Library" / mac
    return Path(environment.get(variable) or Path.home() / home)
