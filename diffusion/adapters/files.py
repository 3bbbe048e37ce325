"""What an adapter file changes, from its header alone: which modules, in which form, and whether a network has them.

No weights are read here and no torch is loaded, so that an adapter for another network is refused in milliseconds. How keys
are named is data in `keys`; what becomes of a weight is `deltas`' affair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from ..checkpoints.headers import Header, HeaderError, read_header
from ..checkpoints.recognise import network_prefix
from ..checkpoints.refusals import key_groups, refuse_strangers
from ..checkpoints.remembering import remembered
from ..checkpoints.strangers import IMPOSTORS, LORA, PARTS, without_cures
from ..families.catalogue import FAMILIES
from ..families.text_joins import ClipSpec
from .keys import (
    ADAPTER_FAMILIES,
    ENDINGS,
    FACTORS,
    FORMS,
    SECOND_TEXT_NAME,
    TEXT_NAME,
    AdapterFamily,
    Form,
)
from .places import FIRST_WEIGHTS, NetworkSpec, Place, Share, Target, places_of, target_shapes
from .shapes import BrokenChangeError, check_divisible, in_words, misfit

BUNDLE = "bundle_emb."  # before the name of an embedding that trainers put into a LoRA's file


@dataclass(frozen=True, eq=False, slots=True)
class Change:
    """One change to one module: the module as the file calls it, the form, and the keys of the tensors by role.

    share: where the file's module joins several of the network's, what of the change is for the one that it is placed at.
    """

    module: str
    form: Form
    keys: Mapping[str, str]
    share: Share | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Adapter:
    """An adapter file. shapes, sizes: by key, sizes in bytes. strays: keys that are part of no whole change."""

    path: Path
    changes: tuple[Change, ...]
    shapes: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int]
    strays: tuple[str, ...]

    @property
    def kind(self) -> str:
        """What people call it: "LoRA", "LoHa", ...; the form that most of its changes have."""
        titles = [change.form.title for change in self.changes]
        return max(dict.fromkeys(titles), key=titles.count)

    @property
    def families(self) -> tuple[str, ...]:
        """The families that it can be for, as far as its modules tell."""
        return tuple(row.name for row in _families(self))

    @property
    def title(self) -> str:
        """What it is, for messages: "a LoRA for Stable Diffusion XL"."""
        titles = {family.name: family.title for family in FAMILIES}
        article = "an" if self.kind.startswith("O") else "a"
        known = [titles[name] for name in self.families]
        return f"{article} {self.kind}" + (f" for {' or '.join(known)}" if known else "")

    @property
    def embeddings(self) -> tuple[str, ...]:
        """The textual inversions that the file carries along, by the names that prompts have for them."""
        bundled = (key.removeprefix(BUNDLE) for key in self.strays if key.startswith(BUNDLE))
        return tuple(dict.fromkeys(name.partition(".")[0] for name in bundled))

    def concerns(self, spec: NetworkSpec) -> list[Change]:
        """Returns the changes that are meant for this kind of network, whether it has their modules or not."""
        is_text = isinstance(spec, ClipSpec)
        return [change for change in self.changes if bool(TEXT_NAME.match(change.module)) == is_text]

    def shapes_of(self, change: Change) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of a change's tensors by role."""
        return {role: self.shapes[key] for role, key in change.keys.items()}

    def nbytes_of(self, change: Change) -> int:
        """Returns the bytes of a change's tensors."""
        return sum(self.sizes[key] for key in change.keys.values())


@dataclass(frozen=True, eq=False, slots=True)
class Fit:
    """How an adapter fits a network. placed: its changes by the tensor that they change, in the order of the file.

    homeless: modules that the network does not have. misfits: the changes of another size, in words. broken: those whose
    tensors don't go together, in words.
    """

    placed: tuple[tuple[Target, Change], ...]
    homeless: tuple[str, ...] = ()
    misfits: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    @property
    def mismatch(self) -> str | None:
        """Why the adapter is for another network, in words: a size differs, or most modules are not there. Else None."""
        if self.misfits:
            return self.misfits[0]
        if len(self.homeless) <= len(self.placed):
            return None
        few = (
            f"{len(self.homeless)} of its {len(self.homeless) + len(self.placed)} modules"
            if self.placed
            else "its modules"
        )
        return f"{few}, such as {self.homeless[0]}, are not in the network"


@remembered
def read_adapter(path: Path | str) -> Adapter:
    """Returns what an adapter file holds. Raises HeaderError for a file that is none, and says what it is instead."""
    header = read_header(path)
    shapes = {key: info.shape for key, info in header.tensors.items()}
    modules: dict[str, dict[str, str]] = {}
    for key in shapes:
        if (parted := _parted(key)) is not None:
            modules.setdefault(parted[0], {})[parted[1]] = key
    changes = [change for module, keys in modules.items() for change in _changes(module, keys)]
    if not changes:
        _refuse(header)
    if shapes.keys() >= CONTROL_MARKS:
        raise HeaderError(
            header.path, "a control LoRA of FLUX.1 (canny or depth)", expected=_EXPECTED, cure=_CONTROL_CURE
        )
    used = {key for change in changes for key in change.keys.values()}
    halves = [key for keys in modules.values() for role, key in keys.items() if role in FACTORS and key not in used]
    if halves:
        found = f"a {changes[0].form.title} that lacks the counterparts of some tensors ({len(halves)}, such as {halves[0]})"
        raise HeaderError(header.path, found, expected="each product whole", cure="Get it again.")
    sizes = {key: info.end - info.begin for key, info in header.tensors.items()}
    return Adapter(header.path, tuple(changes), shapes, sizes, tuple(key for key in shapes if key not in used))


def fit(adapter: Adapter, spec: NetworkSpec) -> Fit:
    """Returns how an adapter fits a denoising network, or the text encoders of a model."""
    places, shapes = places_of(spec), target_shapes(spec)
    placed: list[tuple[Target, Change]] = []
    homeless: dict[str, None] = {}
    misfits: list[str] = []
    broken: list[str] = []
    for change in adapter.concerns(spec):
        here = [place for place in places.get(change.module, ()) if place.target(change.form) in shapes]
        if not here:
            homeless[change.module] = None
        for place in here:
            target = place.target(change.form)
            try:
                size = _misfit(adapter, change, place, shapes[target])
            except BrokenChangeError as error:
                broken.append(f"{change.module}: {error}")
                break
            if size is None:
                placed.append((target, replace(change, share=place.share)))
            elif target.tensor in FIRST_WEIGHTS:
                homeless[change.module] = None
            else:
                misfits.append(f"{change.module} is for {size}, and the network has {in_words(shapes[target])}")
                break
    return Fit(tuple(placed), tuple(homeless), tuple(misfits), tuple(broken))


def refusal(adapter: Adapter, fitted: Fit, *, what: str, family: str) -> str | None:
    """Returns why an adapter can't be laid on a network, as the rest of a sentence about it, or None if it can.

    what: the network in words; family: its family's name.
    """
    if fitted.broken:
        return f"is {adapter.title} with a broken module, {fitted.broken[0]}; get the file again"
    if (reason := fitted.mismatch) is None:
        return None
    cure = "of these widths" if family in adapter.families else f"of the {family} family"
    return f"is {adapter.title}, but {what} is of the {family} family: {reason}; use an adapter for a network {cure}"


def unlike(first: NetworkSpec, second: NetworkSpec) -> str | None:
    """Returns in words why two networks can't be mixed, or None if they can."""
    one, other = target_shapes(first), target_shapes(second)
    for target in (*one, *other):
        found = [in_words(shapes[target]) if target in shapes else "none" for shapes in (one, other)]
        if one.get(target) != other.get(target) and target.tensor not in FIRST_WEIGHTS:
            return f"{target.tensor} is {found[0]} in the one and {found[1]} in the other"
    return None


def _parted(key: str) -> tuple[str, str] | None:
    """Returns the module and the role that a key names, or None for a key of no known ending."""
    dot = len(key)
    found = None
    while (dot := key.rfind(".", 0, dot)) >= 0:
        role = ENDINGS.get(key[dot:])
        found = (key[:dot], role) if role is not None else found  # the longest ending counts
        if len(key) - dot > _LONGEST:
            break
    for ending in _JOINED:
        if key.endswith(ending):
            return key.removesuffix(ending), ENDINGS[ending]
    return found


_LONGEST = max(map(len, ENDINGS))
_JOINED = tuple(ending for ending in ENDINGS if not ending.startswith("."))


def _changes(module: str, keys: Mapping[str, str]) -> Iterator[Change]:
    present = frozenset(keys)
    for form in FORMS:
        if (roles := form.roles(present)) is not None:
            yield Change(module, form, {role: key for role, key in keys.items() if role in roles})


def _refuse(header: Header) -> NoReturn:
    """Raises HeaderError for a file without a change, which says what it is instead."""
    path, keys = header.path, list(header.tensors)
    others = without_cures(kind for kind in IMPOSTORS if kind is not LORA)
    refuse_strangers(path, [header], others, expected=_EXPECTED, cure=_CURE)
    if network_prefix(keys) is not None:
        found = f"a checkpoint ({len(keys)} tensors, such as {keys[0]})"
        raise HeaderError(path, found, expected=_EXPECTED, cure="Load it with LoadCheckpoint.")
    refuse_strangers(path, [header], PARTS, expected=_EXPECTED, cure=_CURE)
    if halves := LORA.keys_of(keys):
        raise HeaderError(path, f"half of a LoRA ({halves[0]})", expected="each product whole", cure="Get it again.")
    raise HeaderError(path, key_groups(keys), expected=_EXPECTED, cure=_CURE)


_EXPECTED, _CURE = "a LoRA or another adapter", "Name an adapter."
CONTROL_MARKS = frozenset({"img_in.lora_A.weight", "single_blocks.0.norm.key_norm.scale"})
_CONTROL_CURE = (
    "It gives the network further input channels, which is not supported; load flux1-canny-dev or flux1-depth-dev itself, with "
    "LoadDiffusionModel."
)


def _misfit(adapter: Adapter, change: Change, place: Place, shape: tuple[int, ...]) -> str | None:
    """Returns the size that a change is for, if it is not that of its place; raises BrokenChangeError."""
    roles = adapter.shapes_of(change)
    if place.share is None:
        return misfit(change.form.name, roles, shape)
    check_divisible(change.form.name, roles, place.share.total)
    return misfit(change.form.name, roles, (place.share.total, *shape[1:]))


def _families(adapter: Adapter) -> list[AdapterFamily]:
    """Returns the rows that the adapter's modules do not rule out; usual widths decide where several are left."""
    names = [change.module for change in adapter.changes]
    network = [name for name in names if not TEXT_NAME.match(name)]
    several = any(SECOND_TEXT_NAME.match(name) for name in names)
    linear = _is_linear(adapter)
    rows = [
        row
        for row in ADAPTER_FAMILIES
        if (not network or any(row.markers.search(name) for name in network))
        and not any(pattern.search(name) for pattern in row.lacks for name in network)
        and (linear is None or row.linear is None or row.linear == linear)
        and (row.encoders > 1 or not several)
    ]
    for usual, width in (
        ("context", _width(adapter, "attn2", "to_k", "to_v")),
        ("text", _width(adapter, "q_proj")),
        ("linear1", _height(adapter, "linear1")),
    ):
        if width is not None and any(getattr(row, usual) == width for row in rows):
            rows = [row for row in rows if getattr(row, usual) == width]
    return rows if len(rows) < len(ADAPTER_FAMILIES) else []


def _height(adapter: Adapter, ending: str) -> int | None:
    """Returns how many times as high as wide the matrix is that the first module so called changes; None if unknown."""
    for change in adapter.changes:
        if change.module.endswith(ending) and change.form.name == "lora":
            rows, columns = adapter.shapes[change.keys["up"]][0], adapter.shapes[change.keys["down"]][-1]
            return rows // columns if columns and rows % columns == 0 else None
    return None


def _is_linear(adapter: Adapter) -> bool | None:
    """Returns whether the transformers' proj_in is a matrix; products of two factors alone tell."""
    for change in adapter.changes:
        if change.module.endswith("proj_in") and change.form.name == "lora":
            return len(adapter.shapes[change.keys["down"]]) == 2
    return None


def _width(adapter: Adapter, *words: str) -> int | None:
    """Returns how many numbers the first module reads whose name has the first word and, if more are given, one of them."""
    first, *others = words
    for change in adapter.changes:
        if SECOND_TEXT_NAME.match(change.module):
            continue
        if first in change.module and (not others or change.module.endswith(tuple(others))):
            if change.form.name == "lora":
                return adapter.shapes[change.keys["down"]][-1]
            if change.form.name == "loha":
                return adapter.shapes[change.keys["w1_b"]][-1]
    return None
