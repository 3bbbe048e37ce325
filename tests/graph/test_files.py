"""Files: how names become paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentgraph.graph import FileNotUsable, FolderResolver


def test_names_are_looked_up_as_bundled_then_beside_the_document_then_below_the_folders(tmp_path: Path) -> None:
    beside, models, bundled = tmp_path / "beside", tmp_path / "models", tmp_path / "bundled.bin"
    for path in (beside / "a.bin", models / "a.bin", models / "sub" / "b.bin", bundled):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"x")
    resolver = FolderResolver({"model": {"emoji": bundled}}, {"model": [models]}, {"model": [".bin"]})
    assert resolver.resolve("model", "emoji", beside) == bundled
    assert resolver.resolve("model", "a", beside) == (beside / "a.bin").resolve()
    assert resolver.resolve("model", "a.bin", None) == (models / "a.bin").resolve()
    assert resolver.resolve("model", "sub/b", beside) == (models / "sub" / "b.bin").resolve()
    assert resolver.resolve("other", str(bundled), None) == bundled.resolve()
    assert resolver.names("model") == ["emoji", "a.bin", "sub/b.bin"]


def test_a_folder_counts_where_no_file_has_the_name_or_it_is_a_model(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for folder in ("plain", "whole", "alone"):
        (tmp_path / folder).mkdir()
    models.mkdir()
    for name in ("plain.bin", "whole.bin"):
        (models / name).write_bytes(b"x")
    (tmp_path / "whole" / "model_index.json").write_text("{}")
    resolver = FolderResolver(folders={"model": [models]}, suffixes={"model": [".bin"]})
    assert resolver.resolve("model", "plain", tmp_path) == (models / "plain.bin").resolve()
    assert resolver.resolve("model", "whole", tmp_path) == (tmp_path / "whole").resolve()
    assert resolver.resolve("model", "alone", tmp_path) == (tmp_path / "alone").resolve()


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 5000, "none"])
def test_what_is_no_file_is_refused_with_a_reason(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotUsable):
        FolderResolver().resolve("image", name, tmp_path)


def test_a_name_that_is_not_there_has_near_names(tmp_path: Path) -> None:
    (tmp_path / "sunset.png").write_bytes(b"x")
    with pytest.raises(FileNotUsable, match=r"there is no image 'sunst\.png'; looked in ") as caught:
        FolderResolver().resolve("image", "sunst.png", tmp_path)
    assert caught.value.near[0] == "sunset.png"


def test_what_is_no_file_of_the_kind_is_no_near_name(tmp_path: Path) -> None:
    (tmp_path / "nodes").mkdir()
    (tmp_path / "noted.yaml").write_bytes(b"x")
    resolver = FolderResolver(suffixes={"checkpoint": (".safetensors",)})
    with pytest.raises(FileNotUsable) as caught:
        resolver.resolve("checkpoint", "noder", tmp_path)
    assert caught.value.near == ()
    (tmp_path / "noder1.safetensors").write_bytes(b"x")
    with pytest.raises(FileNotUsable) as caught:
        resolver.resolve("checkpoint", "noder", tmp_path)
    assert list(caught.value.near) == ["noder1.safetensors"]
