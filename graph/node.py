"""Node: a frozen typed value with a `run`. Its fields are its inputs and its return annotation is its outputs.

The class statement checks the declaration and fails, naming the node and the cure, so a wrong node is found at import.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from .context import Context
from .errors import NodeDefinitionError
from .facts import Known, OutputFacts
from .ports import InputPort, OutputPort, read_input, read_outputs

_SENTENCE = re.compile(r".*?(?:\. |$)")

Lane = Literal["device", "cpu", "io"]
"""Where a node spends its time: on the accelerator, on processor cores, or waiting for files."""


@dataclass(frozen=True, slots=True)
class ComfyName:
    """What ComfyUI calls a node, and those of its inputs and outputs that bear another name there (ours to theirs).

    also: further nodes of ComfyUI that this one does the work of.
    """

    name: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    also: tuple[ComfyName, ...] = ()

    @property
    def all(self) -> tuple[ComfyName, ...]:
        """This name and the further ones."""
        return (self, *self.also)


@dataclass(frozen=True)
class NodeSpec:
    """What the engine knows of a node class."""

    type: str
    version: int
    lane: Lane
    effect: bool
    cached: bool
    inputs: Mapping[str, InputPort]
    outputs: tuple[OutputPort, ...]
    doc: str
    comfy: ComfyName | None

    @cached_property
    def summary(self) -> str:
        """The first sentence of the node's documentation, on one line."""
        paragraph = " ".join(self.doc.partition("\n\n")[0].split())
        return _SENTENCE.match(paragraph + " ")[0].rstrip()  # type: ignore[index]

    def output(self, name: str) -> OutputPort | None:
        """Returns the output of a name, or None."""
        return next((port for port in self.outputs if port.name == name), None)


class Node(BaseModel):
    """Base of all nodes. A subclass declares fields and `run`, and states its version in the class statement.

    version: rises whenever equal inputs give a new result. lane: see `Lane`. effect: the node changes the world outside,
    so it always runs and is never served from a cache. cached: False for a value that costs less to make than to keep, or
    that has no meaning outside this process, such as a handle on weights. comfy: see `ComfyName`.

    Nodes change no input, read no clock, environment or global random state, and keep nothing between runs.
    """

    model_config = ConfigDict(
        frozen=True, arbitrary_types_allowed=True, extra="forbid", protected_namespaces=(), defer_build=True
    )

    spec: ClassVar[NodeSpec]

    def __init_subclass__(cls, **declaration: Any) -> None:
        """Takes the declaration; it is read once pydantic has made the fields, below."""

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        *,
        version: int | None = None,
        lane: Lane = "cpu",
        effect: bool = False,
        cached: bool = True,
        comfy: ComfyName | None = None,
        **unknown: Any,
    ) -> None:
        name = cls.__name__
        if unknown:
            raise NodeDefinitionError(f"node {name}: unknown class argument {next(iter(unknown))!r}")
        if not isinstance(version, int) or version < 1:
            raise NodeDefinitionError(f"node {name}: state its version, as in `class {name}(Node, version=1)`")
        if cls.run is Node.run:
            raise NodeDefinitionError(f"node {name}: define `run(self, ctx: Context) -> ...`")
        hints = typing.get_type_hints(cls.run)
        if "return" not in hints:
            raise NodeDefinitionError(f"node {name}: annotate what `run` returns; it declares the outputs")
        outputs = read_outputs(name, hints["return"])
        doc = inspect.getdoc(cls) or ""
        if not doc or doc == inspect.getdoc(Node):
            raise NodeDefinitionError(f"node {name}: say in its docstring what it does; people read it in `nodes`")
        if comfy and (wrong := {name for each in comfy.all for name in each.inputs} - set(cls.model_fields)):
            raise NodeDefinitionError(f"node {name}: comfy names the input {wrong.pop()!r}, which it does not have")
        above = {key: port for base in reversed(cls.__mro__[1:]) for key, port in _inputs_of(base).items()}
        own = inspect.get_annotations(cls)
        inputs = {
            key: above[key] if key in above and key not in own else read_input(name, key, info)
            for key, info in cls.model_fields.items()
        }
        for key, port in inputs.items():
            if not port.literal:
                cls.model_fields[key].annotation = port.instance  # read when the first node of the class is made
        cls.spec = NodeSpec(name, version, lane, effect, cached, inputs, outputs, doc, comfy)

    def run(self, ctx: Context) -> Any:
        """Returns the outputs. Everything the node sees of the world comes from its fields and from `ctx`."""
        raise NotImplementedError

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        """Returns what can be known of the outputs before a run, and reports inputs that can't go together."""
        return {}

    @classmethod
    def wanted(cls, given: Mapping[str, Any]) -> Mapping[str, Iterable[str]] | None:
        """For a lazy node: which entries of its map inputs it needs, from the inputs that are not maps. None: all."""
        return None

    def ports(self, result: Any) -> dict[str, Any]:
        """Returns what `run` gave as values by port name."""
        outputs = self.spec.outputs
        if len(outputs) == 1 and not (isinstance(result, tuple) and hasattr(result, "_fields")):
            return {outputs[0].name: result}
        return {port.name: getattr(result, port.name) for port in outputs}


def _inputs_of(base: type) -> Mapping[str, InputPort]:
    """Returns the inputs that a base class declares; none for Node itself and for what is no node."""
    return base.spec.inputs if issubclass(base, Node) and "spec" in vars(base) else {}
