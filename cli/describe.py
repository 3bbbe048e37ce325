"""Workflows and node types in words, for `workflows` and `nodes`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from latentgraph.graph import ComfyName, Document, Node, NodeSpec
from latentgraph.graph.ports import InputPort, type_name
from latentgraph.graph.wording import shown

from .show import show

NodeGroups = Mapping[str, tuple[type[Node], ...]]
"""Node types by the headings of a menu."""

_NEEDED = "needed"
_LONGEST_CELL = 80  # what is longer, such as the names of all samplers, stands below the table


def node_json(spec: NodeSpec) -> dict[str, Any]:
    """Returns a node type as a JSON object: documentation, inputs with ranges and defaults, outputs."""
    return {
        "version": spec.version,
        "doc": spec.doc,
        "lane": spec.lane,
        "effect": spec.effect,
        "comfyui": spec.comfy.name if spec.comfy else None,
        "inputs": {
            name: {
                "takes": port.expected,
                "required": port.required,
                "default": None if port.required else _plain(port.default),
                "description": port.description,
            }
            for name, port in spec.inputs.items()
        },
        "outputs": {port.name: type_name(port.type) for port in spec.outputs},
    }


def matching(groups: NodeGroups, word: str) -> NodeGroups:
    """Returns the node types whose name, ComfyUI's name or documentation has a word in it."""

    def has(cls: type[Node]) -> bool:
        names = [each.name for each in cls.spec.comfy.all] if cls.spec.comfy else []
        return any(word.lower() in text.lower() for text in (cls.spec.type, cls.spec.doc, *names))

    found = {heading: tuple(filter(has, classes)) for heading, classes in groups.items()}
    return {heading: classes for heading, classes in found.items() if classes}


def show_nodes(console: Console, groups: NodeGroups) -> None:
    """Prints node types with their first sentences, under the headings of their groups."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for heading, classes in groups.items():
        table.add_row(f"[bold]{heading}[/]" if table.row_count == 0 else f"\n[bold]{heading}[/]")
        for cls in classes:
            table.add_row(f"  {cls.spec.type}", escape(cls.spec.summary))
    show(console, table)


def show_node(console: Console, spec: NodeSpec) -> None:
    """Prints one node type: documentation, what ComfyUI calls it, inputs, outputs."""
    console.print(f"[bold]{spec.type}[/] (version {spec.version})")
    show(console, escape(_paragraphs(spec.doc)))
    if spec.comfy:
        show(console, escape(f"\nin ComfyUI: {'; '.join(map(_comfy_words, spec.comfy.all))}"))
    if spec.inputs:
        console.print("\n[bold]inputs[/]")
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading in ("name", "takes", "default", "what it is"):
            table.add_column(heading, overflow="fold")
        long = {name: port.expected for name, port in spec.inputs.items() if len(port.expected) > _LONGEST_CELL}
        for name, port in spec.inputs.items():
            takes = "one of those below" if name in long else port.expected
            table.add_row(name, escape(takes), escape(_default(port)), escape(port.description))
        show(console, table)
        for name, expected in long.items():
            show(console, escape(f"\n{name}: {expected}"))
    if spec.outputs:
        console.print("\n[bold]outputs[/]")
        for output in spec.outputs:
            console.print(f"{output.name}: {type_name(output.type)}")


def workflow_json(document: Document) -> dict[str, Any]:
    """Returns a workflow as a JSON object: what it does, its parameters with ranges and defaults, and its outputs."""
    return {
        "name": document.name,
        "description": document.description,
        "file": str(document.file) if document.file else None,
        "params": {
            name: {
                "takes": param.expected,
                "required": param.required,
                "default": None if param.required else param.default,
                "description": param.description,
            }
            for name, param in document.params.items()
        },
        "outputs": list(document.outputs),
    }


def show_workflows(console: Console, documents: Mapping[str, Document]) -> None:
    """Prints what workflows do, those that need something to be given behind the others."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    needs = {
        name: [one.name for one in document.params.values() if one.required] for name, document in documents.items()
    }
    for name in sorted(needs, key=lambda name: bool(needs[name])):
        words = f" Needs {', '.join(needs[name])}." if needs[name] else ""
        table.add_row(f"[bold]{escape(name)}[/]", escape(f"{documents[name].description}{words}"))
    show(console, table)


def show_workflow(console: Console, document: Document) -> None:
    """Prints what a workflow does, the parameters that `--set` gives, and its outputs."""
    console.print(f"[bold]{escape(document.name)}[/] ({document.file})", soft_wrap=True)
    if document.description:
        show(console, escape(document.description))
    if document.params:
        console.print("\n[bold]parameters[/]")
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading in ("name", "takes", "default", "what it is"):
            table.add_column(heading, overflow="fold")
        for name, param in document.params.items():
            default = _NEEDED if param.required else shown(param.default)
            table.add_row(escape(name), escape(param.expected), escape(default), escape(param.description))
        show(console, table)
    if document.outputs:
        console.print(f"\n[bold]outputs[/]\n{escape(', '.join(document.outputs))}")


def _comfy_words(comfy: ComfyName) -> str:
    """Returns ComfyUI's name of a node, with its inputs that bear another name there."""
    inputs = ", ".join(f"{ours} is {theirs}" for ours, theirs in comfy.inputs.items())
    return f"{comfy.name} ({inputs})" if inputs else comfy.name


def _default(port: InputPort) -> str:
    if port.required or port.default is None:
        return _NEEDED if port.required else ""
    return str(port.default).lower() if isinstance(port.default, bool) else str(_plain(port.default))


def _paragraphs(doc: str) -> str:
    """Returns documentation with each paragraph on one line, for a terminal of any width."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in doc.split("\n\n"))


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
