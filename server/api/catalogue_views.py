"""What the API tells of what a server has: node types and model files."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from latentgraph.graph import NodeSpec
from latentgraph.graph.ports import InputPort, type_name

from .fitting import Fitting
from .views import View


class InputView(View):
    """An input of a node type. literal: the JSON Schema of a value written down; null if it takes links alone."""

    takes: str
    required: bool
    default: Any = None
    description: str = ""
    file: str | None = None
    literal: dict[str, Any] | None = None

    @classmethod
    def of(cls, port: InputPort) -> InputView:
        default = None if port.required else port.default
        return cls(
            takes=port.expected,
            required=port.required,
            default=default if default is None or isinstance(default, str | int | float | bool) else str(default),
            description=port.description,
            file=port.file.kind if port.file else None,
            literal=dict(port.json_schema) if port.literal else None,
        )


class NodeTypeView(View):
    """A node type."""

    type: str
    version: int
    doc: str
    lane: str
    effect: bool
    comfyui: str | None
    inputs: dict[str, InputView]
    outputs: dict[str, str]

    @classmethod
    def of(cls, spec: NodeSpec) -> NodeTypeView:
        return cls(
            type=spec.type,
            version=spec.version,
            doc=spec.doc,
            lane=spec.lane,
            effect=spec.effect,
            comfyui=spec.comfy.name if spec.comfy else None,
            inputs={name: InputView.of(port) for name, port in spec.inputs.items()},
            outputs={port.name: type_name(port.type) for port in spec.outputs},
        )


class NodeTypesView(View):
    """The node types that documents may use."""

    items: list[NodeTypeView]


class ModelView(View):
    """A model file that documents can name, or what is wrong with one."""

    name: str
    kind: str
    family: str | None = None
    problem: str | None = None


class ModelsView(View):
    """The model files of the server."""

    items: list[ModelView]


class FittingView(View):
    """The model files that a parameter may name."""

    kind: str
    names: list[str] = Field(description="Those that fit the workflow, by the names that documents have for them.")
    unfit: dict[str, str] = Field(description="The others of the kind, each with what is wrong with it.")
    where: str = Field(description="Where more of them belong, in words.")

    @classmethod
    def of(cls, fitting: Fitting) -> FittingView:
        unfit = {name: problem.message for name, problem in fitting.unfit.items()}
        return cls(kind=fitting.kind, names=list(fitting.names), unfit=unfit, where=fitting.where)


class FittingsView(View):
    """The model files that the parameters of a workflow may name."""

    params: dict[str, FittingView]
