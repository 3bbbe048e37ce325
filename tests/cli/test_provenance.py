"""What a picture carries, and pictures that carry nothing, or something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from latentgraph.cli import Engine
from latentgraph.cli.provenance import KEYWORD, Provenance, read_provenance
from latentgraph.graph import LatentGraphError

MADE: dict[str, Any] = {
    "document": {
        "latentgraph": 1,
        "params": {"seed": 7, "prompt": {"type": "string", "default": "a cat"}},
        "nodes": {},
    },
    "params": {"seed": 8, "prompt": "a dog"},
    "file": "cat.yaml",
    "precision": "auto",
    "environment": "auto/cpu/float32/torch-2.9.0",
    "files": {},
    "versions": {"torch": "0.0.1"},
}


def picture(path: Path, text: str | None) -> Path:
    """Writes a picture that carries a text as latentgraph's."""
    info = PngInfo()
    if text is not None:
        info.add_text(KEYWORD, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def test_a_picture_carries_document_values_versions_and_hashes(paint: Path, here: Path, tiny_sd1: Path) -> None:
    with Engine() as engine:
        engine.run(paint, seed=3)
        checkpoint = engine.fingerprints.of(tiny_sd1)
    with Image.open(here / "output" / "paint_00001_.png") as saved:
        carried = json.loads(saved.info[KEYWORD])
    assert carried["document"]["nodes"]["sample"]["seed"] == "$params.seed"
    assert carried["params"] == {"prompt": "a red apple", "seed": 3, "steps": 2, "cfg": 5.0}
    assert carried["files"] == {"checkpoint.file": checkpoint}
    assert {"latentgraph", "torch", "diffusers", "transformers", "python"} <= carried["versions"].keys()


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    made = Provenance(**MADE)
    assert read_provenance(picture(tmp_path / "cat.png", made.as_text())) == made


def test_values_become_the_defaults_of_the_parameters() -> None:
    assert Provenance(**MADE).tree_with_values()["params"] == {
        "seed": 8,
        "prompt": {"type": "string", "default": "a dog"},
    }
    assert MADE["document"]["params"]["seed"] == 7


def test_what_differs_from_the_making_is_told() -> None:
    versions, precision = "torch is .* here, and was 0.0.1 when", "the precision is exact here, and was auto when"
    found = Provenance(**MADE).differences(precision="exact")
    assert len(found) == 2
    assert found[0].startswith(precision)
    assert "was 0.0.1 when the picture was made" in found[1], versions


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "carries no latentgraph document; it was saved by something else"),
        ("{", "the document in the picture can't be read"),
        ("[]", "the document in the picture can't be read"),
        ('{"prompt": "a cat"}', "the document in the picture can't be read"),
        ("[" * 100_000, "the document in the picture can't be read"),
        (json.dumps({**MADE, "document": ["a", "list"]}), "its parts have the wrong types"),
        (json.dumps({**MADE, "file": 7}), "its parts have the wrong types"),
        (json.dumps({**MADE, "precision": "some"}), "there is no precision 'some'"),
    ],
    ids=["nothing", "no-json", "a-list", "other-keys", "deep", "document-of-another-kind", "file-7", "precision"],
)
def test_a_picture_without_a_document_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    with pytest.raises(LatentGraphError, match=words):
        read_provenance(picture(tmp_path / "cat.png", text))


def test_a_file_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_text("a cat")
    with pytest.raises(LatentGraphError, match="this is no PNG picture"):
        read_provenance(tmp_path / "cat.png")


def test_a_picture_that_is_missing_is_told_with_its_neighbour(tmp_path: Path) -> None:
    picture(tmp_path / "cat.png", None)
    with pytest.raises(LatentGraphError, match=r"there is no such file. Did you mean 'cat.png'\?"):
        read_provenance(tmp_path / "kat.png")
