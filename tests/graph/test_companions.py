"""Files that are read along with one that an input names: found when the graph is built, in the key, handed to the node."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import pytest

from latentgraph.graph import (
    Companion,
    Context,
    FileInput,
    Fingerprints,
    FolderResolver,
    Graph,
    Known,
    LatentGraphError,
    NoCache,
    Node,
    OutputFacts,
    PlainCodec,
    Registry,
    Scheduler,
    build_graph,
    cache_keys,
    make_plan,
    parse_document,
)

from .fakes import NumberCodec


def notes(song: Path) -> Iterable[Companion]:
    """The sheet of a song, beside it or on a shelf."""
    beside = song.with_suffix(".notes")
    return [Companion("notes", beside if beside.is_file() else None, "sheet", (f"{song.stem}.old", song.stem))]


class Sing(Node, version=1):
    """Sing a song from its sheet."""

    song: Annotated[Path, FileInput("song", companions=notes)]

    def run(self, ctx: Context) -> str:
        """Returns the words and the notes."""
        return f"{self.song.read_text()} {ctx.companions['notes'].read_text()}"

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        if "notes" not in known.companions:
            raise LatentGraphError("there is no sheet for it")
        return {}


REGISTRY = Registry((Sing,))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shelf").mkdir()
    (tmp_path / "ode.txt").write_text("la")
    return tmp_path


def build(place: Path) -> Graph:
    document = parse_document("latentgraph: 1\nnodes:\n  sing: {type: Sing, song: ode.txt}\noutputs: {sung: $sing}\n")
    return build_graph(document, REGISTRY, resolver=FolderResolver(folders={"sheet": (place / "shelf",)}))


def sung(graph: Graph) -> object:
    prints = Fingerprints()
    with Scheduler(NoCache(), PlainCodec(NumberCodec()), fingerprints=prints) as scheduler:
        keys = cache_keys(graph, prints)
        return scheduler.run(make_plan(graph, keys, NoCache().tier)).outputs["sung"]


def test_a_companion_beside_its_file_comes_before_one_on_a_shelf(place: Path) -> None:
    (place / "shelf" / "ode").write_text("on the shelf")
    assert sung(build(place)) == "la on the shelf"
    (place / "shelf" / "ode.old").write_text("the first name counts")
    assert sung(build(place)) == "la the first name counts"
    (place / "ode.notes").write_text("beside")
    assert sung(build(place)) == "la beside"


def test_what_a_companion_holds_is_part_of_the_key(place: Path) -> None:
    sheet = place / "ode.notes"
    keys = []
    for text in ("do", "re", "do"):
        sheet.write_text(text)
        keys.append(cache_keys(build(place), Fingerprints())["sing"])
    assert keys[0] != keys[1]
    assert keys[0] == keys[2]


def test_a_companion_that_is_nowhere_is_left_to_the_node(place: Path) -> None:
    with pytest.raises(LatentGraphError, match="there is no sheet for it"):
        build(place)
