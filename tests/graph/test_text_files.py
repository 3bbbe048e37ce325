"""Files that a text names: found when the graph is built, part of the key, handed to the node, and missed with a warning."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import pytest

from latentgraph.graph import (
    Context,
    FilesInText,
    Fingerprints,
    FolderResolver,
    Graph,
    InvalidWorkflow,
    Known,
    LatentGraphError,
    NoCache,
    Node,
    OutputFacts,
    PlainCodec,
    Registry,
    Scheduler,
    all_key_parts,
    build_graph,
    cache_keys,
    explain,
    make_plan,
    parse_document,
)

from .fakes import NumberCodec


def mentions(text: str) -> Iterable[tuple[str, ...]]:
    """Each word behind an @, with its full stop and without."""
    return [(word[1:], word[1:].strip(".")) for word in text.split() if word.startswith("@")]


class Recite(Node, version=1):
    """Say a text, with what the files that it names hold in their place."""

    text: Annotated[str, FilesInText("verse", mentions)]

    def run(self, ctx: Context) -> str:
        """Returns the files' names and contents, in order."""
        return ", ".join(f"{name}={path.read_text()}" for name, path in ctx.text_files.items())

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        for name, path in known.text_files.items():
            if not path.read_text():
                raise LatentGraphError(f"{name} is empty")
        return {}


class Give(Node, version=1):
    """Give a text."""

    text: str

    def run(self, ctx: Context) -> str:
        """Returns it."""
        return self.text


REGISTRY = Registry((Recite, Give))


@pytest.fixture
def verses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "verses"
    folder.mkdir()
    for name, text in (("ode", "O"), ("sonnet", "S"), ("blank", "")):
        (folder / f"{name}.txt").write_text(text)
    monkeypatch.chdir(tmp_path)
    return folder


def build(text: str, verses: Path, nodes: str = "  say: {type: Recite, text: $params.text}") -> Graph:
    document = f"latentgraph: 1\nparams:\n  text: ''\nnodes:\n{nodes}\noutputs: {{said: $say}}\n"
    resolver = FolderResolver(folders={"verse": (verses,)}, suffixes={"verse": (".txt",)})
    return build_graph(parse_document(document), REGISTRY, params={"text": text}, resolver=resolver)


def said(graph: Graph) -> str:
    prints = Fingerprints()
    with Scheduler(NoCache(), PlainCodec(NumberCodec()), fingerprints=prints) as scheduler:
        result = scheduler.run(make_plan(graph, cache_keys(graph, prints), NoCache().tier))
    result.raise_failure()
    return str(result.outputs["said"])


def key(graph: Graph) -> str:
    return cache_keys(graph, Fingerprints())["say"]


def test_a_node_is_given_the_files_that_its_text_names(verses: Path) -> None:
    graph = build("first @ode then @sonnet.", verses)
    assert graph.warnings == ()
    assert said(graph) == "ode=O, sonnet=S"


def test_the_content_of_a_named_file_is_part_of_the_key(verses: Path) -> None:
    before, other = key(build("@ode", verses)), key(build("an @other", verses))
    (verses / "ode.txt").write_text("P")
    (verses / "other.txt").write_text("Q")
    assert key(build("@ode", verses)) != before
    assert key(build("an @other", verses)) != other


def test_a_text_that_names_no_file_has_the_key_that_it_always_had(verses: Path) -> None:
    class Recite(Node, version=1):
        """Say a text that names no file."""

        text: str

        def run(self, ctx: Context) -> str:
            """Returns it."""
            return self.text

    document = "latentgraph: 1\nnodes:\n  say: {type: Recite, text: plain}\noutputs: {said: $say}\n"
    plain = build_graph(parse_document(document), Registry((Recite,)))
    assert key(build("plain", verses)) == key(plain)


def test_a_file_that_is_not_there_is_a_warning_with_a_near_name(verses: Path) -> None:
    graph = build("@sonet", verses)
    (warning,) = graph.warnings
    assert (warning.severity, warning.code, warning.near) == ("warning", "file-not-found", "sonnet.txt")
    assert "input 'text': there is no verse 'sonet'" in warning.message
    assert warning.message.endswith("it is left out.")
    assert said(graph) == ""


def test_what_is_wrong_with_a_named_file_is_reported_at_the_text(verses: Path) -> None:
    with pytest.raises(InvalidWorkflow) as caught:
        build("@blank", verses)
    (problem,) = caught.value.problems
    assert (problem.code, problem.input) == ("unusable-file", "text")


def test_a_text_that_comes_by_a_link_names_no_files(verses: Path) -> None:
    nodes = "  give: {type: Give, text: '@ode'}\n  say: {type: Recite, text: $give}"
    assert said(build("", verses, nodes)) == ""


def test_a_change_of_a_named_file_is_explained(verses: Path) -> None:
    def planned() -> tuple[object, dict[str, dict[str, object]]]:
        graph = build("@ode", verses)
        plan = make_plan(graph, cache_keys(graph, Fingerprints()), NoCache().tier)
        return plan, all_key_parts(plan, "")

    _, before = planned()
    (verses / "ode.txt").write_text("P")
    plan, after = planned()
    (explanation,) = explain(plan, after, before)  # type: ignore[arg-type]
    assert explanation.changes == (f"the content of file text ode changed ({(verses / 'ode.txt').resolve()})",)


def test_a_folder_of_the_name_does_not_hide_a_file(verses: Path, tmp_path: Path) -> None:
    (tmp_path / "ode").mkdir()
    assert said(build("@ode", verses)) == "ode=O"
