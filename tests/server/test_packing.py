"""What a client sends in place of a document: all that it names on this machine, so that a server elsewhere can run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from latentgraph.graph import InvalidWorkflow, parse_document
from latentgraph.server.client.attachments import Sent, read_document
from latentgraph.server.client.errors import WorkflowRefused
from latentgraph.server.client.packing import pack

from .live_fakes import aside, living
from .web_fakes import png

KINDS = {"LoadPicture": {"file": "image"}, "Constant": {"words": None}}

MAIN = """\
# A picture and its copies.
latentgraph: 1
params:
  picture: {type: image_file, default: cat.png}
nodes:
  words: {type: Constant, words: cat.png}  # no picture
  load: {type: LoadPicture, file: 'cat.png'}
  part: {type: ./parts/look.yaml, picture: cat.png}
  more: {type: LoadPicture, foreach: {file: [cat.png, dog]}}
outputs: {number: $load}
"""
PART = """\
latentgraph: 1
params:
  picture: {type: image_file}
  other: {type: image_file, default: bird.png}
nodes:
  load: {type: LoadPicture, file: $params.picture}
  own: {type: LoadPicture, file: bird.png}
outputs: {number: $load}
"""


@pytest.fixture
def main(tmp_path: Path) -> Path:
    files: dict[str, str | bytes] = {"main.yaml": MAIN, "parts/look.yaml": PART, "cat.png": png(1), "dog.png": png(2)}
    files["parts/bird.png"] = png(3)
    for name, content in files.items():
        path = tmp_path / "library" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return tmp_path / "library" / "main.yaml"


def packed(source: Any, *, with_defaults: bool = False) -> Sent:
    """Packs a document; what stands for the id of a picture is its name."""
    return pack(
        read_document(source), lambda: KINDS, lambda picture: f"sha256:{picture.stem}", with_defaults=with_defaults
    )


def test_pictures_and_documents_that_nodes_name_are_sent_and_the_text_keeps_its_lines(main: Path) -> None:
    sent = packed(main)
    assert isinstance(sent.body, str)
    lines, before = sent.body.splitlines(), MAIN.splitlines()
    assert lines[:6] == before[:6]
    assert lines[6] == '  load: {type: LoadPicture, file: "sha256:cat"}'
    tree = parse_document(sent.body).tree
    assert tree["nodes"]["part"]["picture"] == "sha256:cat"
    assert tree["nodes"]["more"]["foreach"]["file"] == ["sha256:cat", "sha256:dog"]
    assert tree["nodes"]["words"]["words"] == "cat.png"
    part = tree["parts"]["parts/look.yaml"]
    assert part["params"] == {
        "picture": {"type": "image_file"},
        "other": {"type": "image_file", "default": "sha256:bird"},
    }
    assert part["nodes"]["own"]["file"] == "sha256:bird"
    assert tree["params"]["picture"]["default"] == "cat.png"
    assert parse_document(packed(main, with_defaults=True).body).tree["params"]["picture"]["default"] == "sha256:cat"  # type: ignore[arg-type]


def test_a_tree_is_sent_as_one_and_is_not_changed(main: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(main.parent)
    tree = parse_document(MAIN).tree
    before = json.dumps(tree)
    sent = packed(tree)
    assert isinstance(sent.body, dict)
    assert sent.body["nodes"]["load"]["file"] == "sha256:cat"
    assert json.dumps(tree) == before


@pytest.mark.parametrize("form", ["{text}\n...\n", "parts: {{}}\n{text}", '{{"a": 1}}'])
def test_a_text_that_can_not_be_edited_is_sent_as_a_tree(main: Path, form: str) -> None:
    text = json.dumps(parse_document(MAIN).tree) if form.startswith("{{") else form.format(text=MAIN)
    main.write_text(text, "utf-8")
    body = packed(main).body
    assert isinstance(body, dict)
    assert [*body["parts"]] == ["parts/look.yaml"]
    assert body["nodes"]["load"]["file"] == "sha256:cat"


def test_what_names_nothing_here_is_sent_as_it_is_and_the_server_is_asked_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("latentgraph: 1\nnodes: {a: {type: LoadPicture, file: there.png, w: ~nobody and $$}}\n", "utf-8")
    sent = read_document(file)
    assert pack(sent, pytest.fail, pytest.fail, with_defaults=True) is sent  # type: ignore[arg-type]


def test_a_document_that_is_not_here_is_an_error_with_its_place(main: Path) -> None:
    (main.parent / "parts" / "look.yaml").unlink()
    with pytest.raises(InvalidWorkflow, match=r"main\.yaml:8:16: error: node 'part' .*there is no document") as caught:
        packed(main)
    assert len(caught.value.problems) == 1


async def test_a_job_runs_elsewhere_with_all_that_its_document_names(main: Path, tmp_path: Path) -> None:
    async with living(tmp_path / "server") as live:
        with live.client() as client:
            job = await aside(client.submit, main)
            stored = await aside(client.store_workflow, "look", main)
            again = await aside(client.submit, "look")
        kept = json.loads((await live.store.get(job.id)).document)
        assert kept["parts"]["parts/look.yaml"]["nodes"]["own"]["file"].startswith("sha256:")
        assert stored.params["picture"].default.startswith("sha256:")
        assert again.params == {}
        assert (await live.store.workflows.get("look")).document.startswith("# A picture and its copies.\n")
        assert (await live.store.uploads.usage("")).files == 3


async def test_errors_in_parts_are_told_where_they_are_written(main: Path, tmp_path: Path) -> None:
    part = main.parent / "parts" / "look.yaml"
    part.write_text(PART.replace("own: {type: LoadPicture", "own: {type: LoadPictur"), "utf-8")
    async with living(tmp_path / "server") as live:
        with live.client() as client:
            with pytest.raises(WorkflowRefused) as caught:
                await aside(client.submit, main)
            told = await aside(client.validate, main)
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"{part}:7:15: error: node 'part/own' (LoadPictur): there is no such node type")
    assert [(one.file, one.line) for one in told.problems] == [(str(part), 7)]


async def test_a_picture_that_is_nowhere_is_said_to_be_nowhere(main: Path, tmp_path: Path) -> None:
    (main.parent / "cat.png").unlink()
    async with living(tmp_path / "server") as live:
        with live.client() as client, pytest.raises(WorkflowRefused) as caught:
            await aside(client.submit, main)
    first = str(caught.value.problems[0])
    assert first.startswith(f"{main}:7:35: error: node 'load' (LoadPicture): input 'file': there is no image 'cat.png'")
    assert f"nor is it on this machine, in {main.parent}, {Path.cwd()}." in first
