"""What can be known of a value before anything runs: its family, channels, text width, picture size.

A node's `infer` gets a `Known`: the literals and the facts that flow into it. It returns facts for its outputs and reports
what can't go together. A fact that is absent is unknown, and unknown is never an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

FactValue = Any
"""A frozen value that compares: a text, a number, or what describes a network."""

Facts = Mapping[str, FactValue]
"""Facts of one value, such as {"family": "sd1", "channels": 4, "width": 512}."""

OutputFacts = Mapping[str, Facts]
"""Facts by output port."""

NO_FACTS: Facts = {}

ABSENT = "absent"
"""The fact that an output will have no value, with the reason as its value; a link to it is an error before the run."""


class Known:
    """What is known of a node's inputs before it runs. `facts`: those of each link of an input, in order.

    text_files: the files that the node's texts name, by name. companions: those that are read along with its files, by name.
    """

    __slots__ = ("_facts", "_files", "_report", "_values", "companions", "text_files")

    def __init__(
        self,
        values: Mapping[str, Any],
        facts: Mapping[str, Sequence[Facts]],
        files: Mapping[str, Path],
        report: Callable[[str, str], None],
        text_files: Mapping[str, Path] | None = None,
        companions: Mapping[str, Path] | None = None,
    ) -> None:
        self.companions: Mapping[str, Path] = companions or {}
        self.text_files: Mapping[str, Path] = text_files or {}
        self._values, self._facts, self._files, self._report = values, facts, files, report

    def value(self, name: str) -> Any:
        """Returns the literal of an input, or None if it is linked or missing."""
        return self._values.get(name)

    def file(self, name: str) -> Path | None:
        """Returns the path that a file input was resolved to, or None."""
        return self._files.get(name)

    def facts(self, name: str) -> Facts:
        """Returns the facts of the value linked to an input, of several values those that all share; empty if unknown."""
        first, *others = self._facts.get(name) or (NO_FACTS,)
        if not others:
            return first
        return {key: value for key, value in first.items() if all(facts.get(key) == value for facts in others)}

    def each(self, name: str) -> Sequence[Facts]:
        """Returns the facts of each value linked to an input, in order."""
        return self._facts.get(name, ())

    def fact(self, name: str, fact: str) -> FactValue | None:
        """Returns one fact of one input, or None if it is unknown."""
        return self.facts(name).get(fact)

    def problem(self, name: str, message: str) -> None:
        """Reports that what is known of input `name` can't be right; `message` says what was found and expected."""
        self._report(name, message)
