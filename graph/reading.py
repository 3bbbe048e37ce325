"""From a file, a text or a tree to a Document.

Reading checks the outer shape (keys, names, kinds) and notes every problem; whether nodes exist and links fit is `build`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from .document import NODE_KEYS, VERSION, Document, NodeDeclaration, part_path
from .errors import InvalidWorkflow
from .params import read_params
from .problems import Mark, Place, Problem
from .references import NAME, PARAMS
from .report import Problems
from .source import Limits, LocatedMap, key_mark, read_tree, value_mark
from .wording import near_name, shown

_KEYS = ("latentgraph", "name", "description", "params", "nodes", "outputs", "parts")


def load_document(path: Path | str, limits: Limits = Limits()) -> Document:  # noqa: B008 - frozen
    """Returns the document in a YAML or JSON file (told by its name). Raises InvalidWorkflow if it can't be read at all."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(limits.bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reasons: dict[type[Exception], str] = {
            FileNotFoundError: "there is no such file",
            IsADirectoryError: "it is a folder; name a file in it",
        }
        message = f"can't read the document: {reasons.get(type(error)) or _reason(error)}."
        near = near_name(path.name, [name for name in names_beside(path) if name != path.name])
        raise InvalidWorkflow([Problem("file-not-found", message, Place(str(path)), near=near)]) from None
    return parse_document(data, syntax="json" if path.suffix.lower() == ".json" else "yaml", file=path, limits=limits)


def parse_document(
    text: str | bytes,
    *,
    syntax: Literal["yaml", "json"] = "yaml",
    file: Path | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Document:
    """Returns the document in a text. Raises InvalidWorkflow if the text can't be read at all."""
    problems = Problems()
    tree = read_tree(text, syntax=syntax, file=str(file) if file else None, problems=problems, limits=limits)
    return document_from_tree(tree, file=file, problems=problems, limits=limits)


def document_from_tree(
    tree: Any,
    *,
    file: Path | None = None,
    problems: Problems | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Document:
    """Returns the document that a tree of maps and lists holds."""
    problems = Problems() if problems is None else problems
    label = str(file) if file else None
    document = _read(tree, file, _Reader(label, problems), limits)
    return replace(document, problems=tuple(problems))


def _read(tree: Any, file: Path | None, reader: _Reader, limits: Limits, *, is_part: bool = False) -> Document:
    """Returns the document in a tree; problems are noted, and not in it yet."""
    problems = reader.problems
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else shown(tree)
        message = f"a document is a map with 'latentgraph: {VERSION}' and 'nodes'; found {found}."
        problems.add("wrong-type", message, Place(reader.file, Mark(1, 1)))
        return Document(file, file.stem if file else "workflow", "", {}, {}, {}, label=reader.file)
    reader.refuse_other_languages(tree)
    reader.check_version(tree)
    reader.check_keys(tree, _KEYS, "the document")
    params = read_params(reader.named_map(tree, "params", "parameter"), reader.file, problems)
    declared = reader.named_map(tree, "nodes", "node", needed=True)
    if len(declared) > limits.nodes:
        message = f"the document has {len(declared):,} nodes; at most {limits.nodes:,} are read."
        raise InvalidWorkflow([Problem("limit-nodes", message, reader.at(tree, "nodes"))])
    nodes = {name: node for name in declared if (node := reader.node(declared, name)) is not None}
    outputs = reader.named_map(tree, "outputs", "output")
    parts = {} if is_part else _read_parts(reader.parts(tree), file, reader, limits)
    if is_part and "parts" in tree:
        message = "a document under 'parts' has 'parts' of its own; put them all under those of the outermost document."
        problems.add("wrong-type", message, reader.at(tree, "parts"))
    return Document(
        file,
        reader.text(tree, "name") or (file.stem if file else "workflow"),
        reader.text(tree, "description"),
        params,
        nodes,
        outputs,
        tree,
        parts=parts,
        label=reader.file,
    )


def _read_parts(trees: Mapping[str, Any], file: Path | None, reader: _Reader, limits: Limits) -> dict[str, Document]:
    """Returns the documents that one brings along."""
    folder = file.parent if file else None
    return {path: _read(trees[path], folder / path if folder else None, reader, limits, is_part=True) for path in trees}


def names_beside(path: Path) -> list[str]:
    """Returns the names in the folder of a path, for a hint; none if it can't be read."""
    try:
        return sorted(entry.name for entry in path.parent.iterdir())
    except (OSError, ValueError):
        return []


def _reason(error: OSError | ValueError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


class _Reader:
    """Reads the parts of a document and notes what is wrong with them."""

    def __init__(self, file: str | None, problems: Problems) -> None:
        self.file, self.problems = file, problems

    def at(self, container: object, key: str) -> Place:
        """Returns the place of a value; of one that is missing at the top of a text, the text's beginning."""
        missing = isinstance(container, LocatedMap) and key not in container
        return Place(self.file, Mark(1, 1) if missing else value_mark(container, key))

    def refuse_other_languages(self, tree: Mapping[str, Any]) -> None:
        """Raises InvalidWorkflow for a workflow of ComfyUI, whose every key would be an error."""
        if "latentgraph" in tree:
            return
        parts = list(tree.values())
        if parts and all(isinstance(part, dict) and "class_type" in part for part in parts):
            found = "ComfyUI's API format"
        elif isinstance(tree.get("nodes"), list) and isinstance(tree.get("links"), list):
            found = "the format of ComfyUI's editor"
        else:
            return
        message = (
            f"this is a workflow in {found}, which is not read; write it as a document with 'latentgraph: {VERSION}' and "
            "'nodes'. `latentgraph nodes NAME` knows ComfyUI's names."
        )
        raise InvalidWorkflow([Problem("other-language", message, Place(self.file, Mark(1, 1)))])

    def check_version(self, tree: Mapping[str, Any]) -> None:
        found = tree.get("latentgraph")
        if found == VERSION and not isinstance(found, bool):
            return
        if "latentgraph" not in tree:
            message = f"the document does not state its version; begin it with 'latentgraph: {VERSION}'."
        else:
            message = f"the document has version {shown(found)}; this package reads version {VERSION}"
            if isinstance(found, str):
                message += ", a number without quotes"
            message += "; a newer latentgraph may read it." if isinstance(found, int) and found > VERSION else "."
        self.problems.add("wrong-version", message, self.at(tree, "latentgraph"))

    def check_keys(self, tree: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
        for key in tree:
            if key not in known:
                self.problems.add(
                    "unknown-key",
                    f"{what} has the unknown key {key!r}; known: {', '.join(known)}.",
                    Place(self.file, key_mark(tree, key)),
                    near=self.problems.near(key, known),
                )

    def text(self, tree: Mapping[str, Any], key: str) -> str:
        value = tree.get(key, "")
        if not isinstance(value, str):
            self.problems.add("wrong-type", f"{key!r} is {shown(value)}; expected text.", self.at(tree, key))
            return ""
        return value

    def named_map(self, tree: Mapping[str, Any], key: str, what: str, needed: bool = False) -> Mapping[str, Any]:
        """Returns the map under a key; entries whose name can't be linked to are noted and left in."""
        value = tree.get(key)
        if value is None and not needed:
            return {}
        if not isinstance(value, dict) or (needed and not value):
            found = "is missing" if key not in tree else f"is {shown(value)}"
            message = (
                f"{key!r} {found}; expected a map with at least one {what}."
                if needed
                else (f"{key!r} {found}; expected a map of {what}s by name.")
            )
            self.problems.add("wrong-type", message, self.at(tree, key))
            return {}
        for name in value:
            if not NAME.match(name) or (what == "node" and name == PARAMS):
                rule = "letters, digits, '_' and '-', beginning with a letter"
                if name == PARAMS:
                    rule = "another name, because $params.x is a parameter"
                message = f"{what} {name[:80]!r} has a name that can't be linked to; expected {rule}."
                self.problems.add("bad-name", message, Place(self.file, key_mark(value, name)))
        return value

    def parts(self, tree: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the map of the documents that one brings along; a path that no node can name is noted and left out."""
        found = tree.get("parts")
        if found is None:
            return {}
        if not isinstance(found, dict):
            message = f"'parts' is {shown(found)}; expected a map of documents by path, such as parts/hires.yaml."
            self.problems.add("wrong-type", message, self.at(tree, "parts"))
            return {}
        for path in found:
            if path != part_path("", path):
                message = f"the part {path[:80]!r} is no path that is used; expected {part_path('', path)[:80]!r}."
                self.problems.add("bad-name", message, Place(self.file, key_mark(found, path)))
        return {path: part for path, part in found.items() if path == part_path("", path)}

    def node(self, nodes: Mapping[str, Any], name: str) -> NodeDeclaration | None:
        tree = nodes[name]
        place = Place(self.file, key_mark(nodes, name))
        if not isinstance(tree, dict):
            message = f"node {name!r} is {shown(tree)}; expected a map with 'type' and the node's inputs."
            self.problems.add("wrong-type", message, place, node=name)
            return None
        kind = tree.get("type")
        if not isinstance(kind, str) or not kind:
            found = f"has the type {shown(kind)}" if "type" in tree else "has no type"
            message = (
                f"node {name!r} {found}; expected the name of a node type, or a path to a document such as ./part.yaml."
            )
            if "<<" in tree:
                message += " ('<<' merges nothing: YAML 1.2 has no merge keys; write the inputs out.)"
            if "class_type" in tree:
                message += " (What ComfyUI calls 'class_type' is 'type' here, and inputs stand beside it.)"
            self.problems.add("missing-input" if "type" not in tree else "wrong-type", message, place, node=name)
            return None
        foreach = tree.get("foreach")
        if foreach is not None and (not isinstance(foreach, dict) or not foreach):
            message = f"node {name!r}: 'foreach' is {shown(foreach)}; expected a map such as {{seed: [1, 2, 3]}}."
            self.problems.add("wrong-type", message, self.at(tree, "foreach"), node=name)
            foreach = None
        inputs = {key: value for key, value in tree.items() if key not in NODE_KEYS}
        return NodeDeclaration(name, kind, inputs, foreach, tree, place)
