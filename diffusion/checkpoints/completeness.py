"""Whether a file has every tensor of its network, in the right shape, and no other: told from the header alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from ..layouts.keymaps import KeyMapError, Origin, Origins
from ..layouts.structure import Shapes
from .headers import Header, HeaderError
from .parts import Part, find_part, find_shapes

FindOrigins = Callable[[Collection[str], Collection[str]], Origins]
"""(wanted, present) -> where each wanted tensor is in the file. Raises KeyMapError."""


def check_tensors(path: Path, shapes: Shapes, layout: Shapes, find_origins: FindOrigins) -> Origins:
    """Returns where in a file each tensor of a network is. Raises HeaderError unless it has all of them, and no other.

    shapes: the file's, by key; layout: the network's, by name.
    """
    try:
        origins = find_origins(layout.keys(), shapes.keys())
    except KeyMapError as error:
        raise HeaderError(path, str(error), expected="each of its tensors once", cure="Get it again.") from None
    for name, shape in layout.items():
        origin = origins[name]
        found = _picked(shapes[origin.key], origin)
        if bare(found) != bare(shape):
            wrong = f"{origin.key} with the shape {list(shapes[origin.key])}"
            raise HeaderError(path, wrong, expected=f"{list(shape)} for {name}", cure="Get the file again.")
    return origins


def checked_part(path: Path, headers: Sequence[Header], prefix: str, layout: Shapes, find_origins: FindOrigins) -> Part:
    """Returns where the tensors of a network are; what is beside them below the prefix, and nobody reads, does not count.

    layout: the network's, by name. Raises HeaderError unless the files have all of its tensors.
    """
    origins = check_tensors(path, find_shapes(headers, prefix), layout, find_origins)
    return find_part(headers, prefix, {origin.key for origin in origins.values()})


def bare(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns a shape but for ones at its end: a 1x1 convolution's weight is a matrix."""
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def _picked(shape: tuple[int, ...], origin: Origin) -> tuple[int, ...]:
    """Returns the shape of what an origin takes of a tensor of this shape."""
    if origin.third is not None:
        shape = (shape[0] // 3, *shape[1:])
    elif origin.rows is not None:
        shape = (sum(min(stop, shape[0]) - start for start, stop in origin.rows), *shape[1:])
    return shape[::-1] if origin.transposed else shape
