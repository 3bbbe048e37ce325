"""Ports: what a node takes and gives, read from its annotations. Knows no document and no graph."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core.core_schema import CoreSchema, is_instance_schema

from .errors import NodeDefinitionError
from .files import FileInput, FilesInText
from .wording import shown

SCALARS: tuple[type, ...] = (str, int, float, bool)
_CONFIG = ConfigDict(strict=True, allow_inf_nan=False)
_WORDS = {"string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false"}


class Required(NamedTuple):
    """Stands where an input has no default."""


REQUIRED = Required()


@dataclass(frozen=True)
class InputPort:
    """One input of a node.

    shape: "one" value, a "list" of values, or a "map" of values by name. type: the Python class of one value; for a literal
    the annotation that pydantic checks. literal: whether a document can write the value down; a file is a literal too.
    """

    name: str
    type: Any
    shape: Literal["one", "list", "map"] = "one"
    literal: bool = False
    optional: bool = False
    default: Any = REQUIRED
    description: str = ""
    file: FileInput | None = None
    in_text: FilesInText | None = None

    @property
    def required(self) -> bool:
        """Whether a document must give the input."""
        return isinstance(self.default, Required)

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """Checks literals: strict types, finite numbers, and the constraints of the annotation."""
        return TypeAdapter(str if self.file else self.type, config=_CONFIG)

    @property
    def instance(self) -> Any:
        """An annotation for pydantic by which the value of a link is passed on as it is, if it is of the port's class."""
        one = Any if self.type is Any else typing.Annotated[self.type, _Instance(self.type)]
        many: Any = {"one": one, "list": list[one], "map": dict[str, one]}[self.shape]  # type: ignore[valid-type]
        return typing.Optional[many] if self.optional else many  # noqa: UP045 - made from a value

    @cached_property
    def json_schema(self) -> Mapping[str, Any]:
        """The JSON Schema of a literal: type, minimum, maximum, multipleOf, enum."""
        return self.adapter.json_schema()

    @cached_property
    def expected(self) -> str:
        """What the input takes, in words: 'a whole number from 1 to 10000'."""
        if self.file:
            return f"the name of a file of kind {self.file.kind!r}"
        if not self.literal:
            one = type_name(self.type)
            return {"one": one, "list": f"a list of {one}", "map": f"a map of {one}"}[self.shape]
        return describe_schema(self.json_schema)

    @cached_property
    def kinds(self) -> frozenset[type]:
        """The classes of linked values that a literal may be."""
        return _kinds(self.json_schema)

    @cached_property
    def item_kinds(self) -> frozenset[type]:
        """The classes of linked values that may be items of a literal list."""
        parts = self.json_schema.get("anyOf", [self.json_schema])
        return frozenset().union(*(_kinds(part.get("items", {})) for part in parts if part.get("type") == "array"))

    def accept(self, value: Any) -> tuple[Any, str | None]:
        """Returns a literal as the node gets it (an int for a float input becomes a float), and None or a problem code."""
        try:
            return self.adapter.validate_python(value), None
        except ValidationError as error:
            kind = error.errors(include_url=False, include_input=False)[0]["type"]
            return value, _CODES.get(kind, "wrong-type")


@dataclass(frozen=True, slots=True)
class _Instance:
    """Keeps pydantic from looking into a value class: only that it is one counts."""

    kind: type

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return is_instance_schema(self.kind)


_CODES = {
    "greater_than": "out-of-range",
    "greater_than_equal": "out-of-range",
    "less_than": "out-of-range",
    "less_than_equal": "out-of-range",
    "multiple_of": "out-of-range",
    "finite_number": "out-of-range",
    "string_too_long": "out-of-range",
    "string_too_short": "out-of-range",
    "too_long": "out-of-range",
    "too_short": "out-of-range",
    "literal_error": "not-in-list",
}


@dataclass(frozen=True, slots=True)
class OutputPort:
    """One output of a node: its name and the class of its value; `many` if it is a list of such values."""

    name: str
    type: Any
    many: bool = False


def _kinds(schema: Mapping[str, Any]) -> frozenset[type]:
    """Returns the classes that a JSON Schema of a literal takes."""
    if "anyOf" in schema:
        return frozenset().union(*map(_kinds, schema["anyOf"]))
    kinds: dict[str, tuple[type, ...]] = {
        "string": (str,),
        "integer": (int,),
        "number": (int, float),
        "boolean": (bool,),
    }
    return frozenset(kinds.get(schema.get("type", ""), ()))


def describe_schema(schema: Mapping[str, Any]) -> str:
    """Returns a JSON Schema of one literal in words."""
    if "enum" in schema:
        return "one of " + ", ".join(shown(value) for value in schema["enum"])
    if "const" in schema:
        return shown(schema["const"])
    if "anyOf" in schema:
        return " or ".join(describe_schema(part) for part in schema["anyOf"])
    if schema.get("type") == "null":
        return "null"
    if schema.get("type") == "array":
        return f"a list, each item {describe_schema(schema.get('items', {}))}"
    words = _WORDS.get(schema.get("type", ""), "a value")
    low, high = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        words += f" above {schema['exclusiveMinimum']}"
    if low is not None and high is not None:
        words += f" from {low} to {high}"
    elif low is not None:
        words += f" of at least {low}"
    elif high is not None:
        words += f" of at most {high}"
    if "multipleOf" in schema:
        words += f", a multiple of {schema['multipleOf']}"
    return words


def type_name(of: Any) -> str:
    """Returns the name of a port's type as documents and messages say it."""
    if of is Any:
        return "any value"
    return _WORDS.get({str: "string", int: "integer", float: "number", bool: "boolean"}.get(of, ""), "") or getattr(
        of, "__name__", str(of)
    )


def read_input(owner: str, name: str, field: FieldInfo) -> InputPort:
    """Returns the port of one field of a node class. Raises NodeDefinitionError for an annotation that is no port."""
    annotation: Any = field.annotation
    default = REQUIRED if field.is_required() else field.get_default(call_default_factory=True)
    marks = [mark for mark in field.metadata if isinstance(mark, FileInput)]
    description = field.description or ""
    optional = False
    if get_origin(annotation) in (typing.Union, types.UnionType) and type(None) in get_args(annotation):
        rest = [arg for arg in get_args(annotation) if arg is not type(None)]
        annotation, optional = typing.Union[tuple(rest)], True  # noqa: UP007 - made from values
    if get_origin(annotation) is typing.Annotated and not marks:  # X | None keeps what marks X to itself
        marks = [mark for mark in get_args(annotation) if isinstance(mark, FileInput)]
        annotation = get_args(annotation)[0] if marks else annotation
    if marks:
        if annotation not in (Path, str):
            raise NodeDefinitionError(f"node {owner}: the file input {name!r} must be annotated as Path")
        return InputPort(
            name, Path, literal=True, optional=optional, default=default, description=description, file=marks[0]
        )
    in_text = next((mark for mark in field.metadata if isinstance(mark, FilesInText)), None)
    constraints = [mark for mark in field.metadata if not isinstance(mark, FileInput | FilesInText)]
    if _is_literal(annotation):
        kind: typing.Any = typing.Annotated[(annotation, *constraints)] if constraints else annotation
        kind = typing.Optional[kind] if optional else kind  # noqa: UP045 - made from a value
        if annotation is float and type(default) is int:
            default = float(default)  # as a document's literal becomes one, so that both have one key
        return InputPort(
            name, kind, literal=True, optional=optional, default=default, description=description, in_text=in_text
        )
    shape: Literal["one", "list", "map"] = "one"
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (list, tuple):
        annotation, shape = args[0], "list"
    elif origin is dict:
        annotation, shape = args[1], "map"
    if annotation is not Any and not isinstance(annotation, type):
        raise NodeDefinitionError(f"node {owner}: input {name!r} is annotated {annotation!r}; use a class or a literal")
    return InputPort(name, annotation, shape, optional=optional, default=default, description=description)


def read_outputs(owner: str, annotation: Any) -> tuple[OutputPort, ...]:
    """Returns the ports of a run's return annotation: a NamedTuple's fields, one class, or none for None.

    A field `X | None` is an output that may have no value; `infer` tells it by the fact `ABSENT`.
    """
    if annotation is None or annotation is type(None):
        return ()
    if isinstance(annotation, type) and issubclass(annotation, tuple) and hasattr(annotation, "_fields"):
        hints = typing.get_type_hints(annotation)
        return tuple(_output(owner, name, hints[name]) for name in annotation._fields)
    single = get_args(annotation)[0] if get_origin(annotation) is list else annotation
    name = "value" if single in SCALARS or single is Any else _snake(getattr(single, "__name__", ""))
    return (_output(owner, name, annotation),)


def _output(owner: str, name: str, annotation: Any) -> OutputPort:
    if get_origin(annotation) in (typing.Union, types.UnionType):
        given = [arg for arg in get_args(annotation) if arg is not type(None)]
        annotation = given[0] if len(given) == 1 else annotation
    many = get_origin(annotation) is list
    one = get_args(annotation)[0] if many else annotation
    if one is not Any and not isinstance(one, type):
        raise NodeDefinitionError(f"node {owner}: output {name!r} is annotated {annotation!r}; use a class")
    return OutputPort(name, one, many)


def _is_literal(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return all(_is_literal(arg) for arg in get_args(annotation))
    if origin is Literal:
        return True
    if origin in (list, tuple, dict):
        return all(_is_literal(arg) for arg in get_args(annotation) if arg is not Ellipsis)
    if origin is typing.Annotated:
        return _is_literal(get_args(annotation)[0])
    return annotation in SCALARS


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
