"""What the README and the pages show works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from latentgraph.graph import FolderResolver, Registry, build_graph, parse_document
from latentgraph.nodes import default_registry

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_workflow_of_the_readme_has_no_error() -> None:
    (text,) = blocks(ROOT / "README.md", "yaml")
    emoji = ROOT / "models" / "emoji.safetensors"
    resolver = FolderResolver(bundled={"checkpoint": {"emoji": emoji}})
    graph = build_graph(parse_document(text), default_registry(), resolver=resolver)
    assert graph.warnings == ()


def test_the_node_of_the_readme_can_be_registered_and_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATENTGRAPH_CACHE", str(tmp_path))
    node, engine = (text for text in blocks(ROOT / "README.md", "python") if "Brighten" in text)
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(node, "README.md", "exec", dont_inherit=True), names)  # noqa: S102 - the README is ours
    exec(compile(engine, "README.md", "exec", dont_inherit=True), names)  # noqa: S102
    registry: Registry = names["engine"].registry
    assert "Brighten" in registry
    assert "KSampler" in registry


def test_the_python_example_of_the_readme_draws_a_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATENTGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "workflows").symlink_to(ROOT / "workflows")
    (example,) = (text for text in blocks(ROOT / "README.md", "python") if "fish" in text)
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec", dont_inherit=True), names)  # noqa: S102
    assert names["outputs"]["image"].size == (128, 128)
    assert (tmp_path / "fish.png").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_workflow_snippet_is_yaml(page: Path) -> None:
    for text in blocks(page, "yaml"):
        yaml.safe_load(text.replace("...", "null"))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_workflow_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in (ROOT / "workflows").glob("*.yaml") if f"`{path.name}`" not in text] == []
