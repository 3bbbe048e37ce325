"""What was read of a file is given again while the file is the same, and never once it is another."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from latentgraph.diffusion.checkpoints import remembering
from latentgraph.diffusion.checkpoints.describe import describe
from latentgraph.diffusion.checkpoints.remembering import remembered

Read = Callable[[Path | str], str]


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled as soon as they are written."""
    monkeypatch.setattr(remembering, "_SETTLED_NS", -(10**18))


def counted() -> tuple[Read, list[Path]]:
    """A reading of a file's text, or of all texts below a folder, and the paths for which it was done."""
    done: list[Path] = []

    @remembered
    def read(path: Path | str) -> str:
        done.append(Path(path))
        files = sorted(Path(path).rglob("*.txt")) if Path(path).is_dir() else [Path(path)]
        return "".join(file.read_text("utf-8") for file in files)

    return read, done


@pytest.mark.usefixtures("settled")
def test_a_file_that_is_the_same_is_read_once(tmp_path: Path) -> None:
    read, done = counted()
    (tmp_path / "a.txt").write_text("one", "utf-8")
    assert [read(tmp_path / "a.txt"), read(str(tmp_path / "a.txt"))] == ["one", "one"]
    assert done == [tmp_path / "a.txt"]


@pytest.mark.usefixtures("settled")
def test_a_file_that_was_written_or_put_in_its_place_is_read_again(tmp_path: Path) -> None:
    read, _ = counted()
    file, other = tmp_path / "a.txt", tmp_path / "b.txt"
    file.write_text("one", "utf-8")
    before = file.stat()
    assert read(file) == "one"
    file.write_text("longer", "utf-8")
    assert read(file) == "longer"
    other.write_text("two", "utf-8")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))  # of the same size and time as the first
    other.replace(file)
    assert read(file) == "two"


def test_a_file_that_was_just_written_is_read_each_time(tmp_path: Path) -> None:
    read, done = counted()
    (tmp_path / "a.txt").write_text("one", "utf-8")
    assert [read(tmp_path / "a.txt"), read(tmp_path / "a.txt")] == ["one", "one"]
    assert len(done) == 2


@pytest.mark.usefixtures("settled")
def test_a_folder_is_read_again_when_a_file_of_a_subfolder_changes_or_appears(tmp_path: Path) -> None:
    read, done = counted()
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "a.txt").write_text("one", "utf-8")
    assert [read(tmp_path), read(tmp_path)] == ["one", "one"]
    assert len(done) == 1
    (tmp_path / "unet" / "a.txt").write_text("two!", "utf-8")
    assert read(tmp_path) == "two!"
    (tmp_path / "unet" / "b.txt").write_text("more", "utf-8")
    assert read(tmp_path) == "two!more"


@pytest.mark.usefixtures("settled")
def test_a_folder_of_very_many_files_is_read_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembering, "_ENTRIES", 3)
    read, done = counted()
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name, "utf-8")
    assert [read(tmp_path), read(tmp_path)] == ["abc", "abc"]
    assert len(done) == 2


@pytest.mark.usefixtures("settled")
def test_what_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    tries = []

    @remembered
    def read(path: Path | str) -> str:
        tries.append(path)
        raise ValueError("it was cut off")

    (tmp_path / "a.txt").write_text("one", "utf-8")
    for path in (tmp_path / "a.txt", tmp_path / "a.txt", tmp_path / "missing.txt"):
        with pytest.raises(ValueError, match="cut"):
            read(path)
    assert len(tries) == 3


@pytest.mark.usefixtures("settled")
def test_the_file_that_was_asked_for_least_lately_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembering, "_FILES", 2)
    read, done = counted()
    files = [tmp_path / f"{name}.txt" for name in "abc"]
    for file in files:
        file.write_text("text", "utf-8")
    for file in (files[0], files[1], files[0], files[2], files[0], files[1]):
        read(file)
    assert done == [files[0], files[1], files[2], files[1]]


@pytest.mark.usefixtures("settled")
def test_a_checkpoint_that_is_the_same_is_described_once(tiny: ModuleType, tmp_path: Path) -> None:
    path = tiny.write_sd1(tmp_path / "model.safetensors")
    first = describe(path)
    assert describe(path) is first
    assert tiny.write_sd1(path, in_channels=9) == path
    assert (first.model.inpaint, describe(path).model.inpaint) == (False, True)
