"""Pictures saved as numbered files: the right ones, in the right place, and no other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pillow

from latentgraph.diffusion.pictures import saving
from latentgraph.diffusion.pictures.files import load_picture
from latentgraph.diffusion.pictures.saving import save_pictures
from latentgraph.diffusion.types import Image

PICTURE = Image(torch.rand(1, 6, 5, 3, generator=torch.Generator().manual_seed(0)))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refuse(path: Path, target: Path) -> None:
    raise PermissionError(f"this file system has no hard links: {path} to {target}")


def test_a_picture_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing under the name of a picture is ever empty, so that a kill leaves no picture that can't be read."""
    monkeypatch.setattr(Path, "replace", refuse)
    (path,) = save_pictures(PICTURE, tmp_path, prefix="cat")
    assert (names(tmp_path), load_picture(path).image.pixels.shape) == (["cat_00001_.png"], (1, 6, 5, 3))


def test_a_batch_is_numbered_in_order_and_keeps_its_pixels(tmp_path: Path) -> None:
    batch = Image(torch.arange(4).reshape(4, 1, 1, 1).expand(4, 2, 3, 3) / 255.0)
    paths = save_pictures(batch, tmp_path / "new", prefix="cat")
    assert [path.name for path in paths] == [f"cat_{number:05}_.png" for number in (1, 2, 3, 4)]
    assert torch.equal(torch.cat([load_picture(path).image.pixels for path in paths]), batch.pixels)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_channels_decide_the_mode(channels: int, mode: str, tmp_path: Path) -> None:
    (path,) = save_pictures(Image(torch.zeros(1, 2, 2, channels)), tmp_path, prefix="a")
    with Pillow.open(path) as picture:
        assert picture.mode == mode


def test_numbers_continue_from_the_highest_of_the_same_prefix(tmp_path: Path) -> None:
    for name in (
        "cat_00007_.png",
        "cat_00002_.png",
        "cats_00050_.png",
        "cat_dog_00060_.png",
        "cat_00009.png",
        "cat_x_.png",
    ):
        (tmp_path / name).touch()
    (path,) = save_pictures(PICTURE, tmp_path, prefix="cat")
    assert path.name == "cat_00008_.png"


def test_a_number_taken_in_the_meantime_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "cat_00001_").mkdir()  # counts as number 1
    (tmp_path / "cat_00002_.png").mkdir()
    (path,) = save_pictures(PICTURE, tmp_path, prefix="cat")
    assert path.name == "cat_00003_.png"


@pytest.mark.parametrize("links", [True, False])
def test_many_writers_at_a_time_lose_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(save_pictures, PICTURE, tmp_path, prefix="cat") for _ in range(40)]
        paths = [path for job in jobs for path in job.result()]
    assert len(set(paths)) == 40
    assert names(tmp_path) == sorted(path.name for path in paths)
    assert all(load_picture(path).image.pixels.shape == (1, 6, 5, 3) for path in paths)


def test_text_chunks_are_written_and_read_back(tmp_path: Path) -> None:
    (path,) = save_pictures(PICTURE, tmp_path, prefix="a", text={"workflow": '{"a": "猫"}', "note": "plain"})
    with Pillow.open(path) as picture:
        assert picture.info == {"workflow": '{"a": "猫"}', "note": "plain"}


def test_a_prefix_may_name_a_folder_and_tell_size_and_time(tmp_path: Path) -> None:
    paths = save_pictures(
        Image(torch.zeros(2, 6, 5, 3)), tmp_path, prefix=r"day\%year%-%month%/%width%x%height%_%batch_num%"
    )
    assert [path.name for path in paths] == ["5x6_0_00001_.png", "5x6_1_00001_.png"]
    assert paths[0].parent.parent == tmp_path / "day"
    assert len(paths[0].parent.name) == len("2026-01")


@pytest.mark.parametrize(
    "prefix", ["../cat", "a/../../cat", "/tmp/cat", r"..\cat", "link/cat", ".", "", "a/..", "a\0b"]
)
def test_a_prefix_may_not_lead_out_of_the_folder(prefix: str, tmp_path: Path) -> None:
    folder, outside = tmp_path / "output", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "link").symlink_to(outside)
    with pytest.raises(ValueError, match=r"prefix .* (leads out of the output folder|names no file)"):
        save_pictures(PICTURE, folder, prefix=prefix)
    assert names(tmp_path) == ["output", "outside"]
    assert names(outside) == []


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(saving.Pillow.Image, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        save_pictures(PICTURE, tmp_path, prefix="cat")
    assert names(tmp_path) == []
