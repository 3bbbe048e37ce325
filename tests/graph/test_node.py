"""Nodes: what a class statement refuses, what the engine reads from one, and that a node is a plain value."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from pydantic import Field, ValidationError

from latentgraph.graph import ComfyName, Context, FileInput, Node, NodeDefinitionError, NodeSpec, Registry
from latentgraph.graph.ports import InputPort, OutputPort, type_name

from .fakes import REGISTRY, Add, BlockOnDevice, Constant, Count, Halves, Kinds, Number, Pair, Save, Sum


class Wrong(NamedTuple):
    """Outputs of which one is no class."""

    a: Literal["x"]


def declare(**options: Any) -> type[Node]:
    class Odd(Node, **options):
        """Is odd."""

        def run(self, ctx: Context) -> Number:
            return Number(1)

    return Odd


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, r"node Odd: state its version, as in `class Odd\(Node, version=1\)`"),
        ({"version": 0}, "node Odd: state its version"),
        ({"version": "1"}, "node Odd: state its version"),
        ({"version": 1, "cache": False}, "node Odd: unknown class argument 'cache'"),
        (
            {"version": 1, "comfy": ComfyName("X", inputs={"b": "c"})},
            "node Odd: comfy names the input 'b', which it does not have",
        ),
    ],
)
def test_a_class_statement_with_wrong_arguments_fails(options: dict[str, Any], words: str) -> None:
    with pytest.raises(NodeDefinitionError, match=words):
        declare(**options)


def test_a_node_needs_a_run_a_return_annotation_and_a_docstring() -> None:
    with pytest.raises(NodeDefinitionError, match=r"node Odd: define `run\(self, ctx: Context\) -> ...`"):

        class Odd(Node, version=1):
            """Is odd."""

    with pytest.raises(NodeDefinitionError, match="node Odd: annotate what `run` returns; it declares the outputs"):

        class Odd(Node, version=1):  # type: ignore[no-redef]
            """Is odd."""

            def run(self, ctx):  # type: ignore[no-untyped-def]
                return 1

    with pytest.raises(NodeDefinitionError, match="node Odd: say in its docstring what it does"):

        class Odd(Node, version=1):  # type: ignore[no-redef]
            def run(self, ctx: Context) -> Number:
                return Number(1)


def test_annotations_that_are_no_port_fail() -> None:
    with pytest.raises(
        NodeDefinitionError, match=r"node Odd: input 'a' is annotated .*Number \| .*; use a class or a literal"
    ):

        class Odd(Node, version=1):
            """Is odd."""

            a: Number | Halves

            def run(self, ctx: Context) -> Number:
                return Number(1)

    with pytest.raises(NodeDefinitionError, match="node Odd: the file input 'a' must be annotated as Path"):

        class Odd(Node, version=1):  # type: ignore[no-redef]
            """Is odd."""

            a: Annotated[int, FileInput("text")]

            def run(self, ctx: Context) -> Number:
                return Number(1)

    with pytest.raises(NodeDefinitionError, match=r"node Odd: output 'a' is annotated .*; use a class"):

        class Odd(Node, version=1):  # type: ignore[no-redef]
            """Is odd."""

            def run(self, ctx: Context) -> Wrong:
                return Wrong("x")


def test_a_spec_says_what_the_engine_needs_to_know() -> None:
    spec = Save.spec
    assert isinstance(spec, NodeSpec)
    assert (spec.type, spec.version, spec.lane, spec.effect, spec.cached) == ("Save", 1, "io", True, True)
    assert (spec.summary, spec.outputs, list(spec.inputs)) == ("Save a number.", (), ["a", "name"])


def test_outputs_follow_from_the_return_annotation() -> None:
    assert Constant.spec.outputs == (OutputPort("number", Number),)
    assert Pair.spec.outputs == (OutputPort("whole", Number), OutputPort("rest", Number))
    assert Count.spec.outputs == (OutputPort("number", Number, many=True),)
    assert Pair.spec.output("rest") == OutputPort("rest", Number)
    assert Pair.spec.output("other") is None


def test_inputs_follow_from_the_fields() -> None:
    a, b, plus = Add.spec.inputs.values()
    assert (a.type, a.shape, a.literal, a.optional, a.required) == (Number, "one", False, False, True)
    assert (b.type, b.optional, b.default, b.required) == (Number, True, None, False)
    assert (plus.literal, plus.default, plus.description) == (True, 0.0, "What else to add.")
    assert (Sum.spec.inputs["items"].shape, Sum.spec.inputs["items"].type) == ("list", Number)


def test_a_node_may_extend_another() -> None:
    assert list(BlockOnDevice.spec.inputs) == ["gate", "a"]
    assert BlockOnDevice.spec.inputs["a"] == BlockOnDevice.__mro__[1].spec.inputs["a"]  # type: ignore[attr-defined]


def test_a_node_is_a_frozen_value_that_runs_by_itself() -> None:
    node = Add(a=Number(1), plus=2)
    result = node.run(Context())
    assert isinstance(result, Number)
    assert result.value == 3
    with pytest.raises(ValidationError):
        node.plus = 3.0  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Add(a="text")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("share", 1, (1.0, None)),
        ("share", True, (True, "wrong-type")),
        ("share", float("nan"), (None, "out-of-range")),
        ("count", 1.0, (1.0, "wrong-type")),
        ("count", 11, (11, "out-of-range")),
        ("mode", "fast", ("fast", None)),
        ("mode", "quick", ("quick", "not-in-list")),
        ("flag", "true", ("true", "wrong-type")),
        ("sizes", [1, 2], ([1, 2], None)),
        ("sizes", "12", ("12", "wrong-type")),
        ("either", "x", ("x", None)),
        ("maybe", None, (None, None)),
        ("word", None, (None, "wrong-type")),
    ],
)
def test_literals_are_taken_strictly(name: str, value: object, taken: tuple[object, str | None]) -> None:
    found, code = Kinds.spec.inputs[name].accept(value)
    assert code == taken[1]
    if taken[0] is not None:
        assert (found, type(found)) == (taken[0], type(taken[0]))


def test_what_an_input_expects_is_said_in_words() -> None:
    words = {name: port.expected for name, port in Kinds.spec.inputs.items()}
    assert words == {
        "word": "text",
        "count": "a whole number from 1 to 10, a multiple of 1",
        "share": "a number",
        "flag": "true or false",
        "mode": 'one of "slow", "fast"',
        "sizes": "a list, each item a whole number",
        "either": "a whole number or text",
        "maybe": "a whole number or null",
    }
    assert [type_name(kind) for kind in (Number, int, Any)] == ["Number", "a whole number", "any value"]


def test_a_whole_default_of_a_number_is_the_number_that_a_document_gives() -> None:
    class Odd(Node, version=1):
        """Is odd."""

        share: float = 1
        limited: float = Field(2, ge=1)
        maybe: float | None = 3

        def run(self, ctx: Context) -> float:
            return self.share

    for port in Odd.spec.inputs.values():
        assert isinstance(port.default, float)
        assert port.accept(int(port.default)) == (port.default, None)


def test_a_file_input_may_be_optional_in_both_ways_to_write_it() -> None:
    class Odd(Node, version=1):
        """Is odd."""

        one: Annotated[Path | None, FileInput("text")] = None
        two: Annotated[Path, FileInput("text")] | None = None

        def run(self, ctx: Context) -> None:
            return None

    one, two = Odd.spec.inputs.values()
    assert isinstance(one, InputPort)
    assert (
        (one.file, one.optional, one.literal)
        == (two.file, two.optional, two.literal)
        == (FileInput("text"), True, True)
    )


def test_a_registry_has_classes_by_name_and_refuses_two_of_one() -> None:
    assert REGISTRY["Add"] is Add
    assert list(Registry([Add, Constant, Add])) == ["Add", "Constant"]

    class Add2(Node, version=1):
        """Is another."""

        def run(self, ctx: Context) -> Number:
            return Number(1)

    Add2.spec = NodeSpec(**{**vars(Add2.spec), "type": "Add"})
    with pytest.raises(NodeDefinitionError, match="two node classes are called 'Add'; rename one"):
        Registry([Add, Add2])


def test_a_registry_knows_its_value_classes_and_file_kinds() -> None:
    assert set(REGISTRY.value_types) == {"Number", "Handle"}
    assert REGISTRY.file_kinds == {"text"}
    assert REGISTRY.file_types == ("mask_file", "text_file"), "forms have masks painted"


def test_a_registry_finds_near_names_and_comfyui_names() -> None:
    named = declare(version=1, comfy=ComfyName("ComfyOdd"))
    registry = Registry([Add, named])
    assert (registry.near("Addd"), registry.near("add"), registry.near("ComfyOdd"), registry.near("Zzz")) == (
        "Add",
        "Add",
        "Odd",
        None,
    )
