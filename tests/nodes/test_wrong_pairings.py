"""Every wrong pairing and every bad file that people meet is refused before a weight is read, with words that help.

The cases and their messages are in wrong_pairings.yaml; the files are of true size, and their weights are holes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from latentgraph.graph import InvalidWorkflow, build_graph, parse_document
from latentgraph.nodes import default_registry

from .wrong_files import write_files

CASES: Mapping[str, Mapping[str, str]] = yaml.safe_load(
    (Path(__file__).parent / "wrong_pairings.yaml").read_text(encoding="utf-8")
)
SEVERAL_OUTPUTS = ("{type: LoadCheckpoint,", "{type: LoadLora,")


@pytest.fixture(scope="module")
def folder(tiny: ModuleType, tiny_dits: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wrong")
    write_files(path, tiny, tiny_dits)
    return path


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_before_a_weight_is_read_with_its_place_and_a_cure(name: str, folder: Path) -> None:
    nodes = CASES[name]["nodes"].replace("FOLDER", str(folder))
    port = ".model" if any(each in nodes.partition("last:")[2] for each in SEVERAL_OUTPUTS) else ""
    indented = "".join(f"  {line}\n" for line in nodes.splitlines())
    with pytest.raises(InvalidWorkflow) as caught:
        build_graph(
            parse_document(f"latentgraph: 1\nnodes:\n{indented}outputs: {{last: $last{port}}}\n"), default_registry()
        )
    errors = [problem for problem in caught.value.problems if problem.severity == "error"]
    message, expected = errors[0].message.replace(str(folder), "FOLDER"), CASES[name]["message"]
    beginning = expected.removesuffix("...")
    assert (message[: len(beginning)] if beginning != expected else message) == beginning
    assert all(error.place.mark is not None for error in errors)
    places = {error.message.split(":")[0] for error in errors}
    assert len(places) == 1, "one mistake is told at one node"


def test_there_are_as_many_as_people_meet() -> None:
    assert len(CASES) >= 100
    assert len({case["message"] for case in CASES.values()}) >= 95
