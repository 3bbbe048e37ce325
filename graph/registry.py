"""The node types that documents may use: an argument wherever it is needed, never a global."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from .errors import NodeDefinitionError
from .node import Node
from .ports import SCALARS
from .wording import near_name


class Registry(Mapping[str, type[Node]]):
    """Node classes by type name, in the order in which they were given."""

    def __init__(self, classes: Iterable[type[Node]]) -> None:
        self._classes: dict[str, type[Node]] = {}
        for cls in classes:
            name = cls.spec.type
            if self._classes.get(name, cls) is not cls:
                raise NodeDefinitionError(f"two node classes are called {name!r}; rename one")
            self._classes[name] = cls

    def __getitem__(self, name: str) -> type[Node]:
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def near(self, name: str) -> str | None:
        """Returns the type that a misspelt name, or ComfyUI's name for a node, probably means."""
        return self.by_comfy.get(name) or near_name(name, self._classes)

    @cached_property
    def by_comfy(self) -> dict[str, str]:
        """The types by the names that ComfyUI has for them."""
        named = ((each.name, cls.spec.type) for cls in self.values() if cls.spec.comfy for each in cls.spec.comfy.all)
        return dict(named)

    @cached_property
    def value_types(self) -> dict[str, type]:
        """The classes that travel along links, by name, such as Latent and Image."""
        found: dict[str, type] = {}
        for cls in self._classes.values():
            types = [port.type for port in cls.spec.outputs] + [
                p.type for p in cls.spec.inputs.values() if not p.literal
            ]
            found.update({kind.__name__: kind for kind in types if isinstance(kind, type) and kind not in SCALARS})
        return found

    @cached_property
    def file_kinds(self) -> frozenset[str]:
        """The kinds of files that some node reads."""
        return frozenset(port.file.kind for cls in self.values() for port in cls.spec.inputs.values() if port.file)

    @cached_property
    def file_types(self) -> tuple[str, ...]:
        """The types of parameters for these files; a mask, which is read as a picture, has one of its own for forms."""
        return tuple(sorted({f"{kind}_file" for kind in (*self.file_kinds, "mask")}))
