"""Names in documents: what they may stand for, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentgraph.graph import FileNotUsable
from latentgraph.server.files.resolving import ServerResolver, content_digests
from latentgraph.server.files.uploads import upload_path

DIGEST = "ab" * 32


@pytest.fixture
def resolver(tmp_path: Path) -> ServerResolver:
    upload = upload_path(tmp_path / "files", DIGEST)
    for path in (
        upload,
        tmp_path / "emoji.bin",
        tmp_path / "models" / "deep" / "a.bin",
        tmp_path / "parts" / "x" / "part.yaml",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return ServerResolver(
        uploads=tmp_path / "files",
        bundled={"checkpoint": {"emoji": tmp_path / "emoji.bin"}},
        folders={"checkpoint": (tmp_path / "none", tmp_path / "models"), "document": (tmp_path / "parts",)},
        suffixes={"checkpoint": (".bin",)},
    )


def test_names_stand_for_bundled_files_files_in_their_folder_and_uploads(
    tmp_path: Path, resolver: ServerResolver
) -> None:
    assert resolver.resolve("checkpoint", "emoji", None) == tmp_path / "emoji.bin"
    assert resolver.resolve("checkpoint", "deep/a", None) == (tmp_path / "models" / "deep" / "a.bin").resolve()
    assert resolver.resolve("checkpoint", "deep/a.bin", tmp_path) == (tmp_path / "models" / "deep" / "a.bin").resolve()
    assert resolver.resolve("image", f"sha256:{DIGEST}", None) == upload_path(tmp_path / "files", DIGEST)
    assert resolver.names("checkpoint") == ["emoji", "deep/a.bin"]


def test_a_document_names_others_from_where_it_lies(tmp_path: Path, resolver: ServerResolver) -> None:
    inner = tmp_path / "parts" / "x"
    assert resolver.resolve("document", "./part.yaml", inner.resolve()) == (inner / "part.yaml").resolve()
    assert resolver.resolve("document", "./x/part.yaml", None) == (inner / "part.yaml").resolve()
    with pytest.raises(FileNotUsable):
        resolver.resolve("document", "part.yaml", tmp_path / "elsewhere")


def test_a_resolver_for_somebody_knows_that_ones_uploads_alone(resolver: ServerResolver) -> None:
    assert resolver.for_uploads([DIGEST]).resolve("mask", f"sha256:{DIGEST}", None)
    with pytest.raises(FileNotUsable, match="there is no upload"):
        resolver.for_uploads([]).resolve("mask", f"sha256:{DIGEST}", None)


def test_an_upload_is_a_picture_and_nothing_else(resolver: ServerResolver) -> None:
    for kind in ("checkpoint", "vae", "document"):
        with pytest.raises(FileNotUsable, match=f"an upload can't be a {kind}"):
            resolver.resolve(kind, f"sha256:{DIGEST}", None)


WRONG = [
    "", "..", "../emoji.bin", "/etc/passwd", "a//b", "a/../b", "./../x", "a\\b", "C:x", "http://x/y", "x\0", "n" * 2000, "~",
    "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_plain_name_is_refused_without_telling_where_anything_lies(
    tmp_path: Path, resolver: ServerResolver, name: str
) -> None:
    for kind in ("checkpoint", "image", "document", "other"):
        with pytest.raises(FileNotUsable) as caught:
            resolver.resolve(kind, name, tmp_path)
        assert str(tmp_path) not in str(caught.value)


def test_links_are_followed_inside_and_never_out(tmp_path: Path, resolver: ServerResolver) -> None:
    models = tmp_path / "models"
    (models / "inside.bin").symlink_to("deep/a.bin")
    (models / "outside.bin").symlink_to(tmp_path / "emoji.bin")
    (models / "folder").symlink_to(tmp_path)
    assert resolver.resolve("checkpoint", "inside", None) == (models / "deep" / "a.bin").resolve()
    for name in ("outside", "folder/emoji.bin"):
        with pytest.raises(FileNotUsable):
            resolver.resolve("checkpoint", name, None)


def test_an_upload_that_is_a_link_is_none(tmp_path: Path, resolver: ServerResolver) -> None:
    other = upload_path(tmp_path / "files", "cd" * 32)
    other.parent.mkdir(parents=True)
    other.symlink_to(tmp_path / "emoji.bin")
    with pytest.raises(FileNotUsable, match="there is no upload"):
        resolver.resolve("image", f"sha256:{'cd' * 32}", None)


def test_a_name_that_is_nearly_right_is_suggested(resolver: ServerResolver) -> None:
    with pytest.raises(FileNotUsable, match=r"there is no checkpoint 'emojy' on the server$") as caught:
        resolver.resolve("checkpoint", "emojy", None)
    assert caught.value.near == ("emoji",)
    with pytest.raises(FileNotUsable, match=r"or the content id of an upload"):
        resolver.resolve("image", "cat.png", None)


def test_it_says_where_files_of_a_kind_belong_without_telling_the_folder_s_path(resolver: ServerResolver) -> None:
    assert resolver.where("checkpoint") == "in none/ of the server's models folder"
    assert resolver.where("image") == ""


def test_the_uploads_that_a_text_names_are_found() -> None:
    text = f'{{"a": "sha256:{DIGEST}", "b": ["sha256:{"cd" * 32}", "sha256:short", "SHA256:{DIGEST}"]}}'
    assert content_digests(text) == {DIGEST, "cd" * 32}
