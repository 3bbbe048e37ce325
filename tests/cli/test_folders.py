"""Where caches and models are, and what names of files mean."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from latentgraph.cli.folders import cache_folder, check_writable, make_resolver, models_folder
from latentgraph.graph import FileNotUsable, LatentGraphError

posix = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the XDG folders are those of Linux")


def test_a_variable_moves_the_cache_and_the_models() -> None:
    assert cache_folder({"LATENTGRAPH_CACHE": "/c", "XDG_CACHE_HOME": "/x"}) == Path("/c")
    assert models_folder({"LATENTGRAPH_MODELS": "/m", "XDG_DATA_HOME": "/x"}) == Path("/m")


@posix
def test_the_usual_places_are_those_of_the_xdg_rules() -> None:
    assert cache_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/latentgraph")
    assert models_folder({"XDG_DATA_HOME": "/x"}) == Path("/x/latentgraph/models")
    assert cache_folder({}) == Path.home() / ".cache" / "latentgraph"
    assert models_folder({}) == Path.home() / ".local" / "share" / "latentgraph" / "models"


def test_the_bundled_model_is_a_checkpoint_and_a_vae(tmp_path: Path) -> None:
    resolver = make_resolver(tmp_path)
    assert resolver.resolve("checkpoint", "emoji", None).name == "emoji.safetensors"
    assert resolver.resolve("vae", "emoji", None).name == "emoji.safetensors"


def test_models_are_found_by_name_without_their_suffix_safetensors_first(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints" / "old"
    checkpoints.mkdir(parents=True)
    (checkpoints / "sd15.ckpt").touch()
    resolver = make_resolver(tmp_path)
    assert resolver.resolve("checkpoint", "old/sd15", None).name == "sd15.ckpt"
    (checkpoints / "sd15.safetensors").touch()
    assert resolver.resolve("checkpoint", "old/sd15", None).name == "sd15.safetensors"


def test_a_checkpoint_is_found_where_a_vae_is_asked_for(tmp_path: Path) -> None:
    for name in ("vae/fine", "checkpoints/sd15"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).with_suffix(".safetensors").touch()
    resolver = make_resolver(tmp_path)
    assert resolver.names("vae") == ["emoji", "fine.safetensors", "sd15.safetensors"]
    assert resolver.names("checkpoint") == ["emoji", "sd15.safetensors"]
    with pytest.raises(FileNotUsable):
        resolver.resolve("checkpoint", "fine", None)


def test_a_folder_that_can_be_made_is_writable_and_is_not_made_to_find_out(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b", "output folder", "name another one")
    assert not (tmp_path / "a").exists()


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(
        LatentGraphError, match=r"the output folder '.*a/b' can't be used: .*a is a file; name another one"
    ):
        check_writable(tmp_path / "a" / "b", "output folder", "name another one")
