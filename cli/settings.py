"""`--set name=value` on the command line to values of parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import yaml

from latentgraph.graph import InvalidWorkflow, LatentGraphError, Param
from latentgraph.graph.problems import Place
from latentgraph.graph.report import Problems
from latentgraph.graph.wording import names, near_name


def read_settings(params: Mapping[str, Param], settings: Sequence[str]) -> dict[str, Any]:
    """Returns the given values, each read as its parameter's type wants it; of a name given twice, the last.

    Raises LatentGraphError for what is no NAME=VALUE, and InvalidWorkflow with every value that its parameter does not take.
    """
    given: dict[str, Any] = {}
    problems = Problems()
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals or not name:
            raise LatentGraphError(f"--set {setting!r} is no NAME=VALUE; write for example --set seed=7")
        place = Place(f"--set {setting[:80]}")
        param = params.get(name)
        if param is None:
            message = f"there is no parameter {name!r}; known: {names(params)}."
            problems.add("unknown-param", message, place, near=near_name(name, params))
            continue
        given[name] = _value(param, text)
        code = "wrong-type" if param.is_value else param.check(given[name])
        if code:
            problems.add(code, f"parameter {name!r} takes {param.expected}.", place)
    if problems.errors:
        raise InvalidWorkflow(tuple(problems))
    return given


@contextmanager
def telling_how(params: Mapping[str, Param]) -> Iterator[None]:
    """Adds to the report on a workflow how to give the parameters that it misses, as a note of the exception."""
    try:
        yield
    except InvalidWorkflow as error:
        named = [problem.param for problem in error.problems if problem.code == "missing-param" and problem.param]
        missing = [params[name] for name in named if name in params and not params[name].is_value]
        if missing:
            words = (f"--set {param.name}={'FILE' if param.file_kind else 'VALUE'}" for param in missing)
            error.add_note(f"Give what is missing: {' '.join(words)}")
        raise


def _value(param: Param, text: str) -> Any:
    """Returns what a text stands for; a list is written as in a document, [a, b]."""
    if param.type != "list":
        return param.from_text(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
