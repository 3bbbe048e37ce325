"""What the README and the pages show works as it stands there."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from latentgraph.graph import FolderResolver, Registry, build_graph, load_document, parse_document
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
    (example,) = (text for text in blocks(ROOT / "README.md", "python") if "sunflower" in text)
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec", dont_inherit=True), names)  # noqa: S102
    assert names["outputs"]["image"].size == (128, 128)
    assert (tmp_path / "sunflower.png").is_file()


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


def test_commands_that_are_shown_name_workflows_and_parameters_that_there_are() -> None:
    texts = [page.read_text(encoding="utf-8") for page in (*PAGES, *(ROOT / "workflows").glob("*.yaml"))]
    shown = [line for text in texts for line in re.sub(r"\\\n(#)?", " ", text).splitlines()]
    found = [
        match
        for line in shown
        for match in re.finditer(r"latentgraph (?:run|submit|explain|workflows) (\S+)([^`|]*)", line)
    ]
    named = {(match[1], param) for match in found for param in re.findall(r"--set (\w+)=", match[2])}
    assert len(named) > 50
    for name, param in named:
        path = ROOT / name if name.endswith(".yaml") else ROOT / "workflows" / f"{name}.yaml"
        if name.isupper() or name.endswith(".png"):
            continue
        assert param in load_document(path).params, (name, param)


NAMES_PAGE = ROOT / "docs" / "comfyui.md"


def names_of_nodes() -> str:
    """Returns what the page says of the names of nodes: a table of those that differ, and those that don't."""
    rows, same = [], []
    for cls in default_registry().values():
        for comfy in cls.spec.comfy.all if cls.spec.comfy else ():
            inputs = ", ".join(f"`{theirs}`: `{ours}`" for ours, theirs in comfy.inputs.items())
            if inputs or comfy.name != cls.spec.type:
                rows.append(f"| `{comfy.name}` | `{cls.spec.type}` | {inputs} |".replace("|  |", "| |"))
            else:
                same.append(f"`{comfy.name}`")
    head = "| there | here | inputs there: here |\n|---|---|---|\n"
    ours = ", ".join(f"`{name}`" for name, cls in default_registry().items() if not cls.spec.comfy)
    table = head + "\n".join(sorted(rows, key=str.lower))
    return f"{table}\n\nThe same in both: {', '.join(sorted(same))}.\n\nHere alone: {ours}.\n"


def test_the_page_for_users_of_comfyui_has_every_name_of_a_node() -> None:
    """LATENTGRAPH_PIN_NAMES=1 writes them anew."""
    text = NAMES_PAGE.read_text(encoding="utf-8")
    before = text.partition("| there | here | inputs there: here |")[0]
    if os.environ.get("LATENTGRAPH_PIN_NAMES"):
        NAMES_PAGE.write_text(before + names_of_nodes(), encoding="utf-8")
        text = NAMES_PAGE.read_text(encoding="utf-8")
    assert text == before + names_of_nodes()
