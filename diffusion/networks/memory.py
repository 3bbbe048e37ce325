"""Which networks are in memory: kept by least-recent use under a byte budget, loaded when they are first used.

This module knows neither files nor networks: a `WeightSource` loads itself, from files or from other networks. It keeps
four promises: a network in use is never let go, equal sources share one copy, a network whose tensors another one uses
stays as long as that one does, and the sum of what is resident stays within the budget.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from .budget import default_budget, free_bytes, gibibytes
from .exhaustion import Advice, OutOfMemoryError, Shortage, asked_bytes, general_advice
from .precision import NumericPolicy, Precision, resolve


class MemoryBudgetError(Exception):
    """A network does not fit into the byte budget, even with everything evicted that is not in use."""


class WeightSource(Hashable, Protocol):
    """Where a network comes from. Equal sources give equal networks; hashing one is cheap and reads no weights."""

    @property
    def title(self) -> str:
        """What it is, for messages: "UNet of sd15.safetensors"."""

    @property
    def ingredients(self) -> tuple[WeightSource, ...]:
        """The networks that it is made from; none if it is read from files.

        It uses the first one's own tensors where it does not change them, so that one stays in memory as long as it does.
        """

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes of the tensors that are its own once it is loaded, without loading it."""

    def load(self, policy: NumericPolicy, *ingredients: Any) -> Any:
        """Returns the network, on the policy's device and in its number formats, made from the loaded ingredients."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A light handle on a network's weights. Equal handles share one copy in memory."""

    memory: WeightMemory
    source: WeightSource

    @contextmanager
    def use(self, advice: Advice = general_advice) -> Iterator[Any]:
        """Yields the network, loading it if need be; it stays in memory at least until the block ends.

        The network is shared and must not be changed. It is diffusers' UNet2DConditionModel for a model, AutoencoderKL
        for a VAE, and for text encoders a dict from key ("clip_l", ...) to transformers' CLIPTextModel, or
        CLIPTextModelWithProjection where the file has a projection. One with adapters is the same, patched. Raises
        MemoryBudgetError, and OutOfMemoryError, with this advice, for a block that is refused memory.
        """
        with self.memory.hold(self.source, advice) as network:
            yield network


@dataclass(slots=True)
class _Resident:
    """A network in memory, or on its way there while `network` is None. users: the thread of each use."""

    size: int
    network: Any = None
    users: list[int] = field(default_factory=list)


class WeightMemory:
    """The networks that are loaded on one device, in one precision. Safe to use from several threads.

    A thread that holds no network waits until others let go of enough memory. One that already holds some is refused
    instead: if it waited, two threads could wait for each other for ever.
    """

    def __init__(
        self,
        *,
        budget_bytes: int | None = None,
        device: torch.device | str = "cpu",
        precision: Precision = "auto",
        free_bytes: Callable[[torch.device], int] = free_bytes,
    ) -> None:
        self.policy = resolve(precision, device)
        self.budget_bytes = default_budget(self.policy.device) if budget_bytes is None else budget_bytes
        self._free_bytes = free_bytes
        self._changed = threading.Condition()
        self._residents: OrderedDict[WeightSource, _Resident] = OrderedDict()  # least recently used first

    @property
    def resident_bytes(self) -> int:
        """Bytes of the networks that are loaded or being loaded."""
        with self._changed:
            return self._resident_bytes()

    def is_resident(self, source: WeightSource) -> bool:
        """Returns whether a use of this source would find it loaded."""
        with self._changed:
            resident = self._residents.get(source)
            return resident is not None and resident.network is not None

    @contextmanager
    def hold(self, source: WeightSource, advice: Advice = general_advice) -> Iterator[Any]:
        """Yields the source's network and keeps it in memory until the block ends.

        Raises MemoryBudgetError, and OutOfMemoryError if loading it or the block is refused memory.
        """
        thread = threading.get_ident()  # the block may end in another one
        with self._explaining(source, general_advice):
            resident = self._acquire(source)
        try:
            with self._explaining(source, advice):
                yield resident.network
        finally:
            with self._changed:
                resident.users.remove(thread)
                self._changed.notify_all()

    def has_room(self, size: int) -> bool:
        """Returns whether so many bytes beside the weights are free, letting go of networks that are not in use if need be."""
        with self._changed:
            while (missing := size - self._free_bytes(self.policy.device)) > 0:
                before = self._resident_bytes()
                self._evict_until(max(0, before - missing))
                if self._resident_bytes() == before:
                    return False
        return True

    def evict_unused(self) -> None:
        """Lets go of every network that is not in use."""
        with self._changed:
            self._evict_until(0)

    def _acquire(self, source: WeightSource) -> _Resident:
        thread = threading.get_ident()
        with self._changed:
            needed, missing = self._enter(source, thread)
        try:
            for each in missing:
                ingredients = [self._residents[one].network for one in each.ingredients]
                network = each.load(self.policy, *ingredients)
                with self._changed:
                    self._residents[each].network = network
        except BaseException:
            self._leave(needed, thread)
            raise
        self._leave(needed[:-1], thread)  # what the source was made from is no longer needed for itself
        return self._residents[source]

    def _enter(self, source: WeightSource, thread: int) -> tuple[list[WeightSource], list[WeightSource]]:
        """Makes the thread a user of a source and of what it takes to load it; waits until there is room for all of it.

        Returns all that is needed and what is missing of it, ingredients first. The missing ones have empty places, which
        are the caller's to fill. A thread never waits while it has places to fill, so no two wait for each other.
        """
        while True:
            needed = self._needed(source)
            missing = [each for each in needed if each not in self._residents]
            if all(self._residents[each].network is not None for each in needed if each in self._residents):
                sizes = {each: each.size(self.policy) for each in missing}
                if self._make_room(source, sizes, needed):
                    break
            self._changed.wait()  # until another thread has loaded it, or lets go of what takes its place
        for each in needed:
            resident = self._residents.get(each) or _Resident(sizes[each])
            resident.users.append(thread)
            self._residents[each] = resident
            self._residents.move_to_end(each)
        return needed, missing

    def _leave(self, needed: Sequence[WeightSource], thread: int) -> None:
        """Ends a thread's use of these sources; places that it did not fill are gone."""
        with self._changed:
            for each in needed:
                resident = self._residents[each]
                resident.users.remove(thread)
                if resident.network is None:
                    del self._residents[each]
            self._changed.notify_all()

    def _needed(self, source: WeightSource) -> list[WeightSource]:
        """Returns what must be in memory for the source to be loaded, ingredients first and the source last."""
        order: dict[WeightSource, None] = {}
        pending = [source]
        while pending:
            each = pending.pop()
            order.pop(each, None)
            order[each] = None
            if each not in self._residents:
                pending.extend(each.ingredients)
        return list(reversed(order))

    def _make_room(
        self, source: WeightSource, sizes: Mapping[WeightSource, int], needed: Sequence[WeightSource]
    ) -> bool:
        """Evicts what it must and returns whether the sizes fit now; raises MemoryBudgetError where waiting is vain."""
        size = sum(sizes.values())
        kept = self._with_bases([each for each in needed if each in self._residents])
        whole = size + sum(self._residents[each].size for each in kept)
        if whole > self.budget_bytes:
            raise MemoryBudgetError(self._refusal(source, whole, "Raise the budget or choose a smaller model."))
        if self._evict_until(self.budget_bytes - size, kept):
            return True
        if any(threading.get_ident() in resident.users for resident in self._residents.values()):
            cure = "Raise the budget, or use these networks one after the other."
            raise MemoryBudgetError(self._refusal(source, whole, cure))
        return False

    def _with_bases(self, sources: Iterable[WeightSource]) -> set[WeightSource]:
        """Returns the sources with all those whose tensors they use."""
        found: set[WeightSource] = set()
        pending = list(sources)
        while pending:
            each = pending.pop()
            found.add(each)
            pending.extend(each.ingredients[:1])
        return found

    def _evict_until(self, allowed: int, kept: Collection[WeightSource] = ()) -> bool:
        """Lets go of unused networks, longest unused first, until `allowed` bytes stay; returns whether they do."""
        while self._resident_bytes() > allowed:
            bases = {each.ingredients[0] for each in self._residents if each.ingredients}
            unused = (each for each, resident in self._residents.items() if not resident.users)
            victim = next((each for each in unused if each not in bases and each not in kept), None)
            if victim is None:
                return False
            del self._residents[victim]
        return True

    def _resident_bytes(self) -> int:
        return sum(resident.size for resident in self._residents.values())

    @contextmanager
    def _explaining(self, source: WeightSource, advice: Advice) -> Iterator[None]:
        """Turns a refusal of memory into one that says what was asked for, what there is and what would fit."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            asked = asked_bytes(error)
            if asked is None:
                raise
            shortage = Shortage(asked, self._free_bytes(self.policy.device))
            wanted = f"{gibibytes(asked)} more were" if asked else "more was"
            raise OutOfMemoryError(
                f"{source.title} ran out of memory on {self.policy.device}: {wanted} asked for, {gibibytes(shortage.free)} "
                f"are free, and loaded weights take {gibibytes(self.resident_bytes)}. {advice(shortage)}"
            ) from error

    def _refusal(self, source: WeightSource, size: int, cure: str) -> str:
        in_use = sum(resident.size for resident in self._residents.values() if resident.users)
        return (
            f"{source.title} takes {gibibytes(size)}, but the weights on {self.policy.device} may take "
            f"{gibibytes(self.budget_bytes)}, of which {gibibytes(in_use)} are in use. {cure}"
        )
