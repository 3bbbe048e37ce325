"""Uploads over HTTP: kept by content, judged by their bytes, and used in documents by those who sent them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from aiohttp import FormData
from PIL import Image

from latentgraph.server.api.settings import Settings
from latentgraph.server.files.uploads import PREFIX, upload_path

from .web_fakes import PICTURE_YAML, pillow_picture, png, serving


async def test_an_upload_is_known_by_its_content(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        async with await site.ask(
            "POST", "/v1/files", data=png(5, 3), headers={"Content-Type": "image/png"}
        ) as response:
            view = await response.json()
        assert (response.status, response.headers["Location"]) == (201, view["href"])
        assert (view["media_type"], view["width"], view["height"], view["size"]) == ("image/png", 5, 3, len(png(5, 3)))
        assert await site.upload(png(5, 3)) == view["id"]
        assert (await site.store.uploads.usage("")).files == 1
        async with await site.ask("GET", view["href"]) as response:
            assert (await response.read(), response.headers["Content-Type"]) == (png(5, 3), "image/png")
            assert response.headers["Content-Disposition"].startswith("inline")


async def test_an_upload_may_come_as_a_form(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        form = FormData()
        form.add_field("file", pillow_picture("WEBP"), filename="../x.exe", content_type="text/html")
        view = await site.json("POST", "/v1/files", 201, data=form)
        assert (view["media_type"], view["width"], view["height"]) == ("image/webp", 24, 16)
        two = FormData()
        two.add_field("a", png(), filename="a.png")
        two.add_field("b", png(), filename="b.png")
        await site.problem("POST", "/v1/files", 422, "invalid-request", data=two)


async def test_a_document_uses_an_upload_by_its_id(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        id = await site.upload(png())
        document = {"latentgraph": 1, "nodes": {"load": {"type": "LoadPicture", "file": id}}, "outputs": {"x": "$load"}}
        await site.submit(document)
        await site.submit(PICTURE_YAML, params={"picture": id})
        model = {"latentgraph": 1, "nodes": {"load": {"type": "LoadModel", "file": id}}, "outputs": {"x": "$load"}}
        problem = await site.problem("POST", "/v1/jobs", 422, "invalid-workflow", json={"document": model})
        assert "an upload can't be a checkpoint" in problem["detail"]


async def test_metadata_is_dropped_on_request_and_no_pixel_changes(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    data = pillow_picture("JPEG", exif=exif, comment=b"and with whom")
    async with serving(tmp_path) as site:
        for strip in (False, True):
            id = await site.upload(data, params={"strip_metadata": str(strip).lower()})
            async with await site.ask("GET", f"/v1/files/{id}") as response:
                kept = await response.read()
            assert (b"where I live" in kept, b"and with whom" in kept) == (not strip, not strip)
            assert Image.open(io.BytesIO(kept)).tobytes() == Image.open(io.BytesIO(data)).tobytes()


REFUSED = {
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "image/svg+xml"),
    "svg behind a declaration": (b'<?xml version="1.0"?>\n<!-- x -->\n<svg onload="alert(1)"/>', "image/svg+xml"),
    "html": (b"<!doctype html><script>alert(1)</script>", "text/html"),
    "pickle": (
        b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
        "application/x-pickle",
    ),
    "a checkpoint of torch": (b"PK\x03\x04\x00\x00archive/data.pkl", "application/zip"),
    "safetensors": (b"\x10\x00\x00\x00\x00\x00\x00\x00{            }", "application/x-safetensors"),
    "a header of 100 GB": (b"\x00\x00\x00\x00\x19\x00\x00\x00{            }", "application/x-safetensors"),
    "gzip": (b"\x1f\x8b\x08\x00", "application/gzip"),
    "nothing": (b"", "application/octet-stream"),
    "text": (b"hello", "text/plain"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_no_picture_is_refused_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    data, found = REFUSED[name]
    async with serving(tmp_path) as site:
        for claimed in ("image/png", found):
            headers = {"Content-Type": claimed}
            problem = await site.problem("POST", "/v1/files", 415, "unsupported-type", data=data, headers=headers)
            assert f"bytes say {found}" in problem["detail"]
        assert not [path for path in (site.store.folder / "files").rglob("*") if path.is_file()]
        assert (await site.store.uploads.usage("")).files == 0


BROKEN = [png()[:20], b"\xff\xd8\xff\xe0\x00", b"RIFF\x00\x00\x00\x00WEBPVP8 ", b"GIF89a\x00", png(claim=(0, 5))]


@pytest.mark.parametrize("data", BROKEN)
async def test_a_picture_that_breaks_off_is_damaged(tmp_path: Path, data: bytes) -> None:
    async with serving(tmp_path) as site:
        await site.problem("POST", "/v1/files", 422, "damaged-file", data=data, headers={"Content-Type": "image/png"})


async def test_a_small_file_that_claims_many_pixels_is_refused_unread(tmp_path: Path) -> None:
    """A decompression bomb: 100,000 x 100,000 pixels in some hundred bytes."""
    async with serving(tmp_path) as site:
        bomb = png(claim=(100_000, 100_000))
        problem = await site.problem(
            "POST", "/v1/files", 413, "too-many-pixels", data=bomb, headers={"Content-Type": "x/y"}
        )
        assert "100000 x 100000" in problem["detail"]


async def test_an_upload_is_bounded_whether_or_not_it_says_how_long_it_is(tmp_path: Path) -> None:
    async def dribble() -> object:
        yield png()
        for _ in range(100):
            yield b"x" * 1000

    async with serving(tmp_path, Settings(upload_bytes=20_000)) as site:
        headers = {"Content-Type": "image/png"}
        await site.problem("POST", "/v1/files", 413, "too-large", data=png() + b"x" * 20_000, headers=headers)
        await site.problem("POST", "/v1/files", 413, "too-large", data=dribble(), headers=headers)
        form = FormData()
        form.add_field("file", png() + b"x" * 30_000, filename="x.png")
        await site.problem("POST", "/v1/files", 413, "upload-too-large", data=form)
        assert not [path for path in (site.store.folder / "files").rglob("*") if path.is_file()]


async def test_all_uploads_of_an_owner_are_bounded_together(tmp_path: Path) -> None:
    one, two = png(10, 10), png(11, 11)
    async with serving(tmp_path, Settings(owner_upload_bytes=len(one) + 10)) as site:
        await site.upload(one)
        await site.upload(one)
        headers = {"Content-Type": "image/png"}
        await site.problem("POST", "/v1/files", 429, "quota-exceeded", data=two, headers=headers)
        assert len([path for path in (site.store.folder / "files").rglob("*") if path.is_file()]) == 1
        id = await site.upload(one)
        await site.json("DELETE", f"/v1/files/{id}", 204)
        await site.upload(two)


async def test_a_disk_that_is_nearly_full_takes_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path, Settings(free_disk_bytes=1 << 60)) as site:
        response = await site.ask("POST", "/v1/files", data=png(), headers={"Content-Type": "image/png"})
        assert (response.status, (await response.json())["code"]) == (429, "storage-full")
        assert "Retry-After" in response.headers


async def test_a_file_goes_once_nobody_has_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        one, two = await site.new_token("submit"), await site.new_token("submit")
        id = await one.upload(png())
        path = upload_path(site.store.folder / "files", id.removeprefix(PREFIX))
        await two.problem("GET", f"/v1/files/{id}", 404, "unknown-file")
        assert await two.upload(png()) == id
        await one.json("DELETE", f"/v1/files/{id}", 204)
        assert path.exists()
        await one.problem("GET", f"/v1/files/{id}", 404, "unknown-file")
        await two.json("DELETE", f"/v1/files/{id}", 204)
        assert not path.exists()


async def test_what_an_upload_that_broke_off_has_left_goes_with_the_next_start(tmp_path: Path) -> None:
    left = tmp_path / "data" / "files" / "incoming" / "x"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    async with serving(tmp_path) as site:
        assert not left.exists()
        await site.upload(png())
