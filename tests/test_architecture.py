"""The structure of the house, enforced: who may import whom, in no circle, what stays light, and that every folder is packaged.

The arrows are `cli -> server, nodes, graph`, `server -> graph`, `nodes -> graph, diffusion`, and none from `graph` and
`diffusion`. A wrong arrow is cheap to add and dear to take out, so it fails here first.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import networkx
import pytest

ROOT = Path(__file__).parent.parent
ARROWS = {
    "graph": set(),
    "diffusion": set(),
    "models": set(),
    "workflows": set(),
    "nodes": {"graph", "diffusion"},
    "server": {"graph"},
    "cli": {"graph", "nodes", "diffusion", "server"},
}
"""What each package may import of ours. `cli` reaches into `diffusion` as the composition root, for memory and saving."""


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Returns the absolute names that a module imports, at any depth of its code and for the type checker too."""
    package = ["latentgraph", *path.relative_to(ROOT).parent.parts]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = [*above, *([node.module] if node.module else [])]
            found.update(".".join([*source, alias.name]) for alias in node.names)
    return found


def dotted(path: Path) -> str:
    """Returns the absolute name of a module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("latentgraph", *(part for part in parts if part != "__init__")))


@pytest.mark.parametrize("package", ARROWS)
def test_a_package_imports_only_what_its_arrows_allow(package: str) -> None:
    for path in modules(package):
        ours = {name.split(".")[1] for name in imported(path) if name.startswith("latentgraph.")}
        assert ours - {package} <= ARROWS[package], path


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports for the type checker count: two modules that name each other are one noun, or hide a third."""
    paths = {dotted(path): path for package in ARROWS for path in modules(package)}
    graph = networkx.DiGraph()
    for name, path in paths.items():
        graph.add_edges_from((name, used if used in paths else used.rpartition(".")[0]) for used in imported(path))
    assert not [circle for circle in networkx.strongly_connected_components(graph) if len(circle) > 1]


@pytest.mark.parametrize("package", ARROWS)
def test_no_module_imports_a_package_by_its_bare_name(package: str) -> None:
    """`import graph` would load a second copy of every class."""
    for path in [*modules(package), *(ROOT / "tests").rglob("*.py")]:
        assert not {name.split(".")[0] for name in imported(path)} & set(ARROWS), path


def test_every_package_folder_is_listed_for_packaging() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {
        "benchmarks",
        "training",
    }  # run from a checkout
    assert folders == set(ARROWS)
    inits = (path for folder in folders for path in (ROOT / folder).rglob("__init__.py"))
    packages = {".".join(("latentgraph", *path.relative_to(ROOT).parts[:-1])) for path in inits}
    assert set(settings["packages"]) == packages
    assert settings["package-dir"] == {f"latentgraph.{folder}": folder for folder in folders}
    rooms = {path.parent for folder in folders for path in modules(folder)}
    assert not [room for room in rooms if not (room / "__init__.py").is_file()]


@pytest.mark.parametrize(
    "module",
    [
        "latentgraph.graph",
        "latentgraph.nodes",
        "latentgraph.cli",
        "latentgraph.cli.main",
        "latentgraph.diffusion.types",
        "latentgraph.server",
    ],
)
def test_what_checks_workflows_imports_no_torch(module: str) -> None:
    """`validate`, `schema` and `nodes` start in a moment because of this."""
    code = f"import sys, {module}; print([m for m in ('torch', 'diffusers', 'transformers', 'networkx') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "docs")
    assert shown.stdout.strip() == "[]"


def test_no_module_outgrows_its_noun() -> None:
    for package in ARROWS:
        for path in modules(package):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, f"{path}: look for the second noun"


def test_no_code_or_document_names_a_local_place() -> None:
    """The project speaks of itself alone."""
    words = ("/work/", "/tmp/", "/root/")
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *(p for package in ARROWS for p in modules(package))]:
        text = path.read_text(encoding="utf-8")
        assert not [word for word in words if word in text], path
