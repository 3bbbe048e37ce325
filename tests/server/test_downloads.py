"""Files of a job come whole, under their own names, beside what is there, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from latentgraph.server.api.job_views import FileView, JobView
from latentgraph.server.client import Client
from latentgraph.server.client.errors import ClientError, DamagedDownload
from latentgraph.server.jobs.values import JobDraft

from .live_fakes import ENDLESS, Live, Wire, aside, living, output_file, scripted, short_sleep
from .web_fakes import png

DOCUMENT = '{"latentgraph":1,"nodes":{"one":{"type":"Constant"}},"outputs":{"image":"$one"}}'


async def done(live: Live, files: Mapping[str, Mapping[str, bytes]]) -> str:
    """Returns the id of a job that gave files."""
    await live.store.submit(JobDraft(document=DOCUMENT))
    job = await live.claim()
    await live.succeed(job, files)
    return job.id


def view(**names: bytes) -> JobView:
    """A job whose one output has files, as a server may tell of it."""
    files = [
        FileView(name=name, href="", size=len(data), sha256=output_file(name, data).sha256, media_type="x")
        for name, data in names.items()
    ]
    blank = dict.fromkeys(("workflow", "started", "finished", "deadline", "progress", "error", "seconds"))
    return JobView(
        **blank,  # type: ignore[arg-type]
        id="a",
        state="succeeded",  # type: ignore[arg-type]
        ended=True,
        params={},
        priority=0,
        owner="",
        attempt=1,
        max_attempts=3,
        created="",
        cancel_requested=False,
        outputs={"image": files},
        values={},
        nodes={},
        href="",
    )


async def test_files_lie_under_their_names_by_output(tmp_path: Path) -> None:
    large = os.urandom(3_000_000)
    files = {
        "image": {"image_00001_.png": png(), "cats/image_00001_.png": png(3)},
        "other": {"large.bin": large, "none": b""},
    }
    async with living(tmp_path) as live:
        id = await done(live, files)
        with live.client() as client:
            got = await aside(client.download, id, tmp_path / "got")
    assert got == {name: tuple(tmp_path / "got" / file for file in several) for name, several in files.items()}
    for output, several in files.items():
        assert [path.read_bytes() for path in got[output]] == list(several.values())
    assert not list((tmp_path / "got").rglob("*.part"))


async def test_nothing_is_replaced_and_what_is_there_already_is_not_fetched_again(tmp_path: Path) -> None:
    async with living(tmp_path) as live:
        ids = [
            await done(live, {"image": {"image_00001_.png": png(width), "cat.png": png(width)}}) for width in (2, 3, 4)
        ]
        with live.client() as client:
            first = [await aside(client.download, id, tmp_path / "got") for id in ids]
            assert [await aside(client.download, id, tmp_path / "got") for id in ids] == first
    names = [[path.name for path in got["image"]] for got in first]
    assert names == [
        ["image_00001_.png", "cat.png"],
        ["image_00002_.png", "cat_2.png"],
        ["image_00003_.png", "cat_3.png"],
    ]
    assert [got["image"][0].read_bytes() for got in first] == [png(2), png(3), png(4)]


async def test_a_file_of_several_outputs_is_fetched_once(tmp_path: Path) -> None:
    async with living(tmp_path) as live:
        id = await done(live, {"image": {"image.png": png()}, "again": {"image.png": png()}})
        with live.client() as client:
            got = await aside(client.download, id, tmp_path / "got")
    assert got["image"] == got["again"]


async def test_a_connection_that_is_cut_costs_another_try_and_leaves_nothing(tmp_path: Path) -> None:
    data = os.urandom(500_000)
    async with living(tmp_path) as live:
        id = await done(live, {"image": {"image.bin": data}})
        with live.client() as client:
            job = await aside(client.job, id)
        async with Wire(live.port, [0, 10, 700, 100_000, 400_000]) as wire:
            with Client(f"http://127.0.0.1:{wire.port}", patience=ENDLESS, sleep=short_sleep) as client:
                got = await aside(client.download, job, tmp_path / "got")
            assert wire.connections == 6
    assert got["image"][0].read_bytes() == data
    assert [path.name for path in (tmp_path / "got").iterdir()] == ["image.bin"]


@pytest.mark.parametrize("body", [b"1234567890", b"123456789012345", b"12345"])
def test_a_file_that_is_not_what_the_server_says_is_not_kept(tmp_path: Path, body: bytes) -> None:
    with (
        scripted((200, {}, body)) as script,
        Client(script.url, sleep=short_sleep) as client,
        pytest.raises(DamagedDownload, match=r"image: \d+ bytes with SHA-256"),
    ):
        client.download(view(image=b"0123456789"), tmp_path / "got")
    assert len(script.requests) == 3
    assert list((tmp_path / "got").iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "../up",
        "a/../../up",
        "a//b",
        "a\\b",
        ".ssh/keys",
        "a/.",
        ".",
        "..",
        "a\0b",
        "a\nb",
        "x" * 300,
    ],
)
def test_a_name_that_leads_elsewhere_is_not_written(tmp_path: Path, name: str) -> None:
    with (
        scripted((200, {}, b"x")) as script,
        Client(script.url) as client,
        pytest.raises(ClientError, match="no name below a folder"),
    ):
        client.download(view(**{name: b"x"}), tmp_path / "got")
    assert script.requests == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_can_not_be_written_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "got").write_bytes(b"a file")
    with (
        scripted((200, {}, b"x")) as script,
        Client(script.url) as client,
        pytest.raises(ClientError, match=r"can't be written: .*name another folder"),
    ):
        client.download(view(image=b"x"), tmp_path / "got")


def test_a_file_system_without_links_gets_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    (tmp_path / "image").write_bytes(b"other")
    with scripted((200, {}, b"x")) as script, Client(script.url) as client:
        got = client.download(view(image=b"x"), tmp_path)
    assert got == {"image": (tmp_path / "image_2",)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "image_2"]
