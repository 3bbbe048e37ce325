"""Whether the tensors of an adapter's change make a difference of the size of the weight they are for. Knows shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import NamedTuple

Shape = tuple[int, ...]
Roles = Mapping[str, Shape]


class _Size(NamedTuple):
    """The rows and columns of a weight seen as a matrix; columns is None where any number will do."""

    rows: int
    columns: int | None


class BrokenChangeError(ValueError):
    """The tensors of a change make no difference of any size, or not one that can be used."""


def misfit(form: str, shapes: Roles, wanted: Shape) -> str | None:
    """Returns the size that a change is for, in words, if that is not the one of a weight of the shape `wanted`.

    shapes: those of the change's tensors, by role. Raises BrokenChangeError for tensors that don't go together.
    """
    if "reshape" in shapes:
        raise BrokenChangeError("it gives its weight another shape, which is not supported")
    if form in ("add", "set"):
        (shape,) = shapes.values()
        return None if _bare(shape) == _bare(wanted) else in_words(shape)
    try:
        made = _SIZES[form](shapes, wanted)
    except IndexError:
        listed = ", ".join(str(list(shape)) for shape in shapes.values())
        raise BrokenChangeError(f"it has tensors of the shapes {listed}") from None
    size = _size(wanted)
    if made.rows != size.rows or made.columns not in (size.columns, None):
        return in_words((made.rows, prod(wanted[1:]) if made.columns is None else made.columns))
    _check_scaling(shapes, wanted)
    return None


def check_divisible(form: str, shapes: Roles, total: int) -> None:
    """Raises BrokenChangeError for a change to joined matrices, of so many rows in all, that can't be made to each by itself.

    What turns rows, or scales columns by their norm, needs all of them at once.
    """
    scales = [prod(shapes[role]) for role in ("dora_scale", "magnitude") if role in shapes]
    if form in ("glora", "oft") or any(size != total for size in scales) or (scales and form != "lora"):
        raise BrokenChangeError("it changes matrices together that this network has one by one, which is not supported")


def in_words(shape: Shape) -> str:
    """Returns the size of a weight for a message, as a matrix: "320 x 768"; or "320 numbers"."""
    size = _size(shape)
    return f"{size.rows} x {size.columns}" if size.columns != 1 else f"{size.rows} numbers"


def _size(shape: Shape) -> _Size:
    return _Size(shape[0] if shape else 1, prod(shape[1:]))


def _lora(shapes: Roles, wanted: Shape) -> _Size:
    up, down = shapes["up"], shapes["down"]
    _check_ranks(prod(up[1:]), down[0])
    if "mid" not in shapes:
        return _Size(up[0], prod(down[1:]))
    mid = shapes["mid"]
    _check_ranks(mid[0], mid[1], down[0])
    return _Size(up[0], down[1] * prod(mid[2:]))


def _loha(shapes: Roles, wanted: Shape) -> _Size:
    first = _product(shapes["w1_a"], shapes["w1_b"], shapes.get("t1"))
    second = _product(shapes["w2_a"], shapes["w2_b"], shapes.get("t2"))
    if first != second:
        raise BrokenChangeError(
            f"its two products are of {first.rows} x {first.columns} and {second.rows} x {second.columns}"
        )
    return first


def _lokr(shapes: Roles, wanted: Shape) -> _Size:
    first = _size(shapes["k1"]) if "k1" in shapes else _product(shapes["k1_a"], shapes["k1_b"], None)
    second = _size(shapes["k2"]) if "k2" in shapes else _product(shapes["k2_a"], shapes["k2_b"], shapes.get("k2_t"))
    return _Size(first.rows * second.rows, (first.columns or 0) * (second.columns or 0))


def _glora(shapes: Roles, wanted: Shape) -> _Size:
    a1, a2, b1, b2 = (shapes[role] for role in ("a1", "a2", "b1", "b2"))
    if glora_is_old(wanted[0], a1, b1):
        a1, a2, b1, b2 = a2, a1, b2, b1
    _check_ranks(a1[1], a2[0], b1[1], b2[0])
    if a1[0] != wanted[1] or prod(a2[1:]) != wanted[1]:
        raise BrokenChangeError(f"it turns {a1[0]} columns into {prod(a2[1:])}")
    return _Size(b1[0], prod(b2[1:]))


def glora_is_old(rows: int, a1: Shape, b1: Shape) -> bool:
    """Returns whether GLoRA tensors are in the early order: b1, which then is (rank, columns), comes second."""
    return not (b1[0] == rows and b1[1] == a1[1])


def _oft(shapes: Roles, wanted: Shape) -> _Size:
    blocks = shapes["blocks"]
    if len(blocks) not in (3, 4) or blocks[-1] != blocks[-2]:
        raise BrokenChangeError(f"it has rotations of the shape {list(blocks)}")
    rows = blocks[-3] * blocks[-1]
    if len(blocks) == 4 and (blocks[-1] % 2 or rows % (blocks[-1] << (blocks[0] - 1))):
        raise BrokenChangeError(f"{blocks[0]} factors can't pair {rows} rows")
    return _Size(rows, None)


def _product(a: Shape, b: Shape, core: Shape | None) -> _Size:
    if core is None:
        _check_ranks(prod(a[1:]), b[0])
        return _Size(a[0], prod(b[1:]))
    _check_ranks(core[0], a[0])
    _check_ranks(core[1], b[0])
    return _Size(a[1], b[1] * prod(core[2:]))


def _check_ranks(*ranks: int) -> None:
    if len(set(ranks)) > 1 or 0 in ranks:
        raise BrokenChangeError(f"its factors have the ranks {' and '.join(map(str, ranks))}")


def _check_scaling(shapes: Roles, wanted: Shape) -> None:
    if prod(shapes.get("alpha", ())) != 1:
        raise BrokenChangeError(f"it has an alpha of {prod(shapes['alpha'])} numbers")
    fitting = (wanted[0], wanted[1]) if len(wanted) > 1 else (wanted[0],)
    for role, sizes in (("dora_scale", fitting), ("magnitude", fitting[:1])):
        if role in shapes and prod(shapes[role]) not in sizes:
            raise BrokenChangeError(f"it has {prod(shapes[role])} magnitudes")


def _bare(shape: Shape) -> Shape:
    """Returns a shape but for ones at its end: a 1x1 convolution's weight is a matrix."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


_SIZES: Mapping[str, Callable[[Roles, Shape], _Size]] = {
    "lora": _lora,
    "loha": _loha,
    "lokr": _lokr,
    "glora": _glora,
    "oft": _oft,
}
