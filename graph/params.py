"""Parameters of a document: their types, their constraints, and how given values are checked and bound."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from .ports import REQUIRED, Required
from .problems import Place
from .report import Problems
from .source import key_mark, value_mark
from .wording import names, shown

MAX_SEED = (1 << 64) - 1

_SCALAR_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "seed": (int,),
    "list": (list,),
}
_FILE_TYPE = re.compile(r"([a-z][a-z0-9_]*)_file\Z")
_VALUE_TYPE = re.compile(r"[A-Z][A-Za-z0-9]*\Z")
_KEYS = ("type", "default", "description", "min", "max", "multiple_of", "choices")
_WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "seed": f"a whole number from 0 to {MAX_SEED}",
    "list": "a list",
}


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter.

    type: string, integer, number, boolean, seed, list, KIND_file (image_file, checkpoint_file, ...), or the name of a value
    class such as Latent, which only a document that is used as a node can be given.
    """

    name: str
    type: str
    default: Any = REQUIRED
    description: str = ""
    minimum: float | None = None
    maximum: float | None = None
    multiple_of: float | None = None
    choices: tuple[Any, ...] | None = None
    place: Place = Place()

    @property
    def required(self) -> bool:
        """Whether a run must give a value."""
        return isinstance(self.default, Required)

    @property
    def file_kind(self) -> str | None:
        """The kind of file that the parameter names, or None."""
        match = _FILE_TYPE.match(self.type)
        return match[1] if match else None

    @property
    def is_value(self) -> bool:
        """Whether the parameter takes a value of a link (Latent, Model, ...) and no literal."""
        return bool(_VALUE_TYPE.match(self.type))

    @property
    def expected(self) -> str:
        """What the parameter takes, in words."""
        if self.choices:
            return "one of " + ", ".join(shown(choice) for choice in self.choices)
        words = "the name of a file" if self.file_kind else _WORDS.get(self.type, self.type)
        if self.minimum is not None:
            words += f" of at least {self.minimum}"
        if self.maximum is not None:
            words += f"{' and' if self.minimum is not None else ' of'} at most {self.maximum}"
        return words + (f", a multiple of {self.multiple_of}" if self.multiple_of is not None else "")

    def check(self, value: Any) -> str | None:
        """Returns the problem code of a value that the parameter does not take, or None."""
        kinds = (str,) if self.file_kind else _SCALAR_TYPES.get(self.type, ())
        if not isinstance(value, kinds) or (isinstance(value, bool) and self.type != "boolean"):
            return "wrong-type"
        if self.choices is not None and value not in self.choices:
            return "not-in-list"
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        in_range = self._in_range(value) and (self.type != "seed" or 0 <= value <= MAX_SEED)
        return None if in_range else "out-of-range"

    def _in_range(self, value: float) -> bool:
        low, high, step = self.minimum, self.maximum, self.multiple_of
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if (low is not None and value < low) or (high is not None and value > high):
            return False
        return step is None or _exact(value) % _exact(step) == 0

    def from_text(self, text: str) -> Any:
        """Returns the value that a text stands for, as a shell or a form gives it; a text that is none stays text."""
        if self.type == "boolean":
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(
                text.lower(), text
            )
        try:
            if self.type in ("integer", "seed"):
                return int(text)
            if self.type == "number":
                return float(text)
        except ValueError:
            return text
        return text


def read_params(tree: Any, file: str | None, problems: Problems) -> dict[str, Param]:
    """Returns the parameters declared by a document's `params`; what is wrong is noted and left out."""
    params: dict[str, Param] = {}
    for name, declared in tree.items():
        place = Place(file, value_mark(tree, name))
        param = (
            _read_long(name, declared, place, problems) if isinstance(declared, dict) else _short(name, declared, place)
        )
        if param is None:
            continue
        if not isinstance(param, Param):
            problems.add("wrong-type", f"parameter {name!r}: {param}", place, param=name)
            continue
        if not param.required and (code := param.check(param.default)):
            found = shown(param.default)
            message = f"parameter {name!r}: the default is {found}; expected {param.expected}."
            problems.add(code, message, place, param=name)
        params[name] = param
    return params


def bind_params(
    params: Mapping[str, Param],
    given: Mapping[str, Any],
    problems: Problems,
    *,
    file: str | None,
    at: Any = None,
    where: Callable[[str], str] | None = None,
) -> dict[str, Any]:
    """Returns a value for each parameter: the given one, else the default. Problems are noted, at `at` if given there.

    where: tells for a kind of files where they may lie, in words; see FileResolver. A value that its parameter does not take is
    left out, so that it is noted here alone.
    """
    for name, value in given.items():
        param = params.get(name)
        place = Place(file, key_mark(at, name))
        if param is None:
            known = names(params)
            problems.add(
                "unknown-param",
                f"there is no parameter {name!r}; known: {known}.",
                place,
                near=problems.near(name, params),
                param=name,
            )
        elif not param.is_value and (code := param.check(value)):
            problems.add(code, f"parameter {name!r} is {shown(value)}; expected {param.expected}.", place, param=name)
    bound: dict[str, Any] = {}
    for name, param in params.items():
        value = given.get(name, param.default)
        if isinstance(value, Required):
            message = _missing(param, where(param.file_kind) if where and param.file_kind else "")
            problems.add("missing-param", f"parameter {name!r} {message}", param.place, param=name)
        elif param.is_value or not param.check(value):
            bound[name] = value
    return bound


def _missing(param: Param, where: str) -> str:
    """Returns what is said of a parameter that has no value: what it is, what it takes, and where files for it belong."""
    if param.is_value:
        return f"takes a {param.type}, which only a document that uses this one can give it."
    expected = f"{param.expected} {where}".strip()
    if not param.description:
        return f"has no default and was not given; expected {expected}."
    return f"has no default and was not given: {param.description.rstrip('.')}. Expected {expected}."


def _exact(value: float) -> Fraction:
    """Returns the number as it is written: 0.3 is three times 0.1."""
    return Fraction(value) if isinstance(value, int) else Fraction(str(value))


def _short(name: str, default: Any, place: Place) -> Param | str:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "list"}
    kind = next((word for cls, word in kinds.items() if isinstance(default, cls)), None)
    if kind is None:
        return f"the default is {shown(default)}; write text, a number, true, false or a list, or give a type."
    if name == "seed" and kind == "integer":
        kind = "seed"
    return Param(name, kind, default, place=place)


def _read_long(name: str, declared: dict[str, Any], place: Place, problems: Problems) -> Param | str | None:
    for key in declared:
        if key not in _KEYS:
            at = Place(place.file, key_mark(declared, key) or place.mark)
            message = f"parameter {name!r}: unknown key {key!r}; known: {names(_KEYS)}."
            problems.add("unknown-key", message, at, near=problems.near(key, _KEYS))
    kind = declared.get("type")
    if kind is None and "default" in declared:
        short = _short(name, declared["default"], place)
        kind = short.type if isinstance(short, Param) else None
    if not isinstance(kind, str) or not (kind in _SCALAR_TYPES or _FILE_TYPE.match(kind) or _VALUE_TYPE.match(kind)):
        at = Place(place.file, value_mark(declared, "type") or place.mark)
        known = [*_SCALAR_TYPES, "image_file", "mask_file", "checkpoint_file"]
        near = problems.near(kind, known) if isinstance(kind, str) else None
        found = f"the type is {shown(kind)}" if "type" in declared else "there is no type"
        problems.add("not-in-list", f"parameter {name!r}: {found}; known: {names(known)}.", at, near=near)
        return None
    numbers = {key: declared.get(key) for key in ("min", "max", "multiple_of")}
    for key, value in numbers.items():
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)
        ):
            return f"{key!r} is {shown(value)}; expected a number."
    if numbers["multiple_of"] is not None and numbers["multiple_of"] <= 0:
        return "'multiple_of' must be above 0."
    choices = declared.get("choices")
    if choices is not None and (not isinstance(choices, list) or not choices):
        return f"'choices' is {shown(choices)}; expected a list with something in it."
    return Param(
        name,
        kind,
        declared.get("default", REQUIRED),
        str(declared.get("description", "")),
        numbers["min"],
        numbers["max"],
        numbers["multiple_of"],
        tuple(choices) if choices else None,
        place,
    )
