"""Every broken document of `broken/` against the report that it should get, to the letter, in NAME.expected beside it.

A report is for a person: it says where, what was found, what was expected and what to do. After a change of words, read every
line that changed before it is pinned again:

    LATENTGRAPH_PIN_REPORTS=1 pytest tests/documents/test_broken.py; git diff tests/documents/broken
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from latentgraph.graph import FolderResolver, InvalidWorkflow, Limits, build_graph, load_document, parse_document
from latentgraph.nodes import default_registry

BROKEN = Path(__file__).parent / "broken"
DOCUMENTS = sorted(path.name for path in BROKEN.iterdir() if path.suffix in (".yaml", ".json"))
PIN = "LATENTGRAPH_PIN_REPORTS"


def report(document: str) -> str:
    """Returns what is wrong with a document of the working folder, a problem a line, with FOLDER for the working folder."""
    folders = {
        "checkpoint": "checkpoints",
        "diffusion_model": "checkpoints",
        "vae": "checkpoints",
        "lora": "loras",
        "embedding": "embeddings",
        "text_encoder": "text_encoders",
    }
    suffixes = (".safetensors", ".ckpt", ".gguf")
    resolver = FolderResolver(
        folders={kind: (Path("models", folder),) for kind, folder in folders.items()},
        suffixes=dict.fromkeys(folders, suffixes),
    )
    try:
        found = build_graph(load_document(document), default_registry(), resolver=resolver).warnings
    except InvalidWorkflow as refused:
        found = refused.problems
    return "".join(f"{problem}\n" for problem in found).replace(str(Path.cwd()), "FOLDER")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_broken_document_gets_its_report(document: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    expected = BROKEN / f"{document}.expected"
    found = report(document)
    if os.environ.get(PIN):
        expected.write_text(found, encoding="utf-8")
    assert found == expected.read_text(encoding="utf-8")


def test_every_report_belongs_to_a_document_and_says_something() -> None:
    reports = {path.name.removesuffix(".expected"): path.read_text() for path in BROKEN.glob("*.expected")}
    assert sorted(reports) == DOCUMENTS
    assert all(text.endswith("]\n") for text in reports.values())


WATCHED = """
import builtins, io, json, pathlib, sys
sys.path.insert(0, sys.argv[1])
import test_broken

class Watched:
    def __init__(self, file):
        self.file, self.end = file, 0
    def __enter__(self):
        return self
    def __exit__(self, *error):
        self.file.close()
    def read(self, size=-1):
        data = self.file.read(size)
        self.end = max(self.end, self.file.tell())
        return data
    def __getattr__(self, name):
        return getattr(self.file, name)

ends, opened = {}, []
real_open = pathlib.Path.open
def watched_open(path, *arguments, **settings):
    file = real_open(path, *arguments, **settings)
    if path.suffix != ".safetensors":
        return file
    opened.append((path, Watched(file)))
    return opened[-1][1]
pathlib.Path.open = watched_open

reports = {name: test_broken.report(name) for name in test_broken.DOCUMENTS}
for path, watched in opened:
    ends[path.name] = max(ends.get(path.name, 0), watched.end)
heavy = sorted({"torch", "safetensors", "diffusers", "transformers", "numpy"} & sys.modules.keys())
print(json.dumps({"heavy": heavy, "ends": ends, "reports": len(reports)}))
"""


def test_everything_is_found_without_torch_and_before_a_weight_is_read(folder: Path) -> None:
    """In a process of its own, where nothing was imported before. A file of weights is read up to the end of its header."""
    words = [sys.executable, "-c", WATCHED, str(Path(__file__).parent)]
    told = json.loads(subprocess.run(words, cwd=folder, timeout=120, check=True, capture_output=True).stdout)
    assert told["heavy"] == []
    assert told["reports"] == len(DOCUMENTS)
    assert {"sd1.safetensors", "sdxl.safetensors", "unet_only.safetensors"} <= told["ends"].keys()
    for name, end in told["ends"].items():
        (path,) = (folder / "models").rglob(name)
        with path.open("rb") as file:
            header = 8 + int.from_bytes(file.read(8), "little")
        assert end <= max(header, 64), name  # the first 64 bytes tell files of other formats


# Texts that are too large, or no texts, to keep as files.


def refused(text: str | bytes, syntax: str = "yaml") -> str:
    with pytest.raises(InvalidWorkflow) as error:
        parse_document(text, syntax=syntax)  # type: ignore[arg-type]
    return str(error.value)


def test_a_document_nested_a_million_deep_is_refused() -> None:
    said = "<document>:1:33: error: the document is nested deeper than 32 levels. [limit-depth]"
    assert refused("[" * 1_000_000, "json") == said
    assert refused("[" * 1_000_000) == said


def test_a_document_of_more_bytes_than_are_read_is_refused() -> None:
    limit = Limits().bytes
    assert refused("#" * (limit + 1)).startswith(
        "<document>: error: the document has 4,194,305 bytes; at most 4,194,304"
    )


def test_a_document_of_many_aliases_is_refused() -> None:
    text = "latentgraph: 1\nnodes: [&a x, " + ", ".join(["*a"] * 1001) + "]\n"
    assert refused(text).endswith("error: the document uses more than 1,000 aliases. [limit-aliases]")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"latentgraph: 1\nname: caf\xe9\n", "2:10: error: the text is not UTF-8: byte 0xe9; save the file as UTF-8."),
        (b"\xff\xfel\0a\0t\0e\0n\0t\0", "1:1: error: the text is not UTF-8: byte 0xff; save the file as UTF-8."),
        (b"\x89PNG\r\n\x1a\n", "1:1: error: the text is not UTF-8: byte 0x89; save the file as UTF-8."),
        (b"latentgraph: 1\nname: \x00\n", "<document>: error: this is not YAML"),
    ],
    ids=["latin-1", "utf-16", "a-picture", "a-zero-byte"],
)
def test_bytes_that_are_no_text_are_refused(text: bytes, said: str) -> None:
    assert said in refused(text)
