"""Which networks are in memory: kept by least-recent use under a byte budget, loaded when they are first used.

This module knows neither files nor networks: a `WeightSource` loads itself, from files or from other networks. It keeps
four promises: a network in use is never let go, equal sources share one copy, a network whose tensors another one uses
stays as long as that one does, and the sum of what is resident stays within the budget.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ..names import Precision
from .budget import default_budget, free_bytes, gibibytes
from .exhaustion import Advice, OutOfMemoryError, Shortage, asked_bytes, general_advice
from .precision import NumericPolicy, resolve
from .weight_source import Wanted, WeightSource

HOST = torch.device("cpu")
OFFLOADING_SHARE = 0.85  # of the budget that a network takes which does not fit whole; others have to run beside it


class MemoryBudgetError(Exception):
    """A network does not fit into the byte budget, even with everything evicted that is not in use."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A light handle on a network's weights. Equal handles share one copy in memory.

    precision: what it was asked to be loaded in, None for that of the memory.
    """

    memory: WeightMemory
    source: WeightSource
    precision: Precision | None = None

    @property
    def policy(self) -> NumericPolicy:
        """The number formats of the network, and its device."""
        memory = self.memory.policy
        return memory if self.precision is None else resolve(self.precision, memory.device)

    @contextmanager
    def use(self, advice: Advice = general_advice) -> Iterator[Any]:
        """Yields the network, loading it if need be; it stays in memory at least until the block ends.

        The network is shared and must not be changed. It is diffusers' UNet2DConditionModel for a model, AutoencoderKL
        for a VAE, and for text encoders a dict from key ("clip_l", ...) to transformers' CLIPTextModel, or
        CLIPTextModelWithProjection where the file has a projection. One with adapters is the same, patched. Raises
        MemoryBudgetError, and OutOfMemoryError, with this advice, for a block that is refused memory.
        """
        with self.memory.hold(self.source, advice, policy=self.policy) as network:
            yield network


@dataclass(slots=True)
class _Resident:
    """A network in memory, or on its way there while `network` is None.

    size: its bytes on the device; room: how many it was given if that is less than it takes. users: the thread of each use.
    """

    size: int
    room: int | None = None
    network: Any = None
    users: list[int] = field(default_factory=list)


class WeightMemory:
    """The networks that are loaded on one device. Safe to use from several threads.

    precision: of those that nobody asked another of. offload: leave a part of a network that does not fit on the host, by
    default where the device is not the host.

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
        offload: bool | None = None,
    ) -> None:
        self.policy = resolve(precision, device)
        self.budget_bytes = default_budget(self.policy.device) if budget_bytes is None else budget_bytes
        self._free_bytes = free_bytes
        self._offload = self.policy.device.type != "cpu" if offload is None else offload
        self._changed = threading.Condition()
        self._residents: OrderedDict[Wanted, _Resident] = OrderedDict()  # least recently used first

    @property
    def resident_bytes(self) -> int:
        """Bytes of the networks that are loaded or being loaded."""
        with self._changed:
            return self._resident_bytes()

    def is_resident(self, source: WeightSource, policy: NumericPolicy | None = None) -> bool:
        """Returns whether a use of this source would find it loaded. policy: its formats, by default those of the memory."""
        with self._changed:
            resident = self._residents.get(Wanted(source, policy or self.policy))
            return resident is not None and resident.network is not None

    @contextmanager
    def hold(
        self, source: WeightSource, advice: Advice = general_advice, *, policy: NumericPolicy | None = None
    ) -> Iterator[Any]:
        """Yields the source's network and keeps it in memory until the block ends.

        policy: its formats, by default those of the memory. Raises MemoryBudgetError, and OutOfMemoryError if loading it or the
        block is refused memory.
        """
        thread = threading.get_ident()  # the block may end in another one
        with self._explaining(source, general_advice):
            resident = self._acquire(Wanted(source, policy or self.policy))
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

    def _acquire(self, wanted: Wanted) -> _Resident:
        thread = threading.get_ident()
        with self._changed:
            needed, missing = self._enter(wanted, thread)
        try:
            for each in missing:
                ingredients = [self._residents[one].network for one in each.ingredients]
                network = each.load(ingredients, self._residents[each].room)
                with self._changed:
                    self._residents[each].network = network
        except BaseException:
            self._leave(needed, thread)
            raise
        self._leave(needed[:-1], thread)  # what the source was made from is no longer needed for itself
        return self._residents[wanted]

    def _enter(self, wanted: Wanted, thread: int) -> tuple[list[Wanted], list[Wanted]]:
        """Makes the thread a user of a source and of what it takes to load it; waits until there is room for all of it.

        Returns all that is needed and what is missing of it, ingredients first. The missing ones have empty places, which
        are the caller's to fill. A thread never waits while it has places to fill, so no two wait for each other.
        """
        while True:
            needed = self._needed(wanted)
            missing = [each for each in needed if each not in self._residents]
            if all(self._residents[each].network is not None for each in needed if each in self._residents):
                places = self._places(wanted, needed, missing)
                if places is not None and self._make_room(wanted, places, needed):
                    break
                if places is None:
                    continue
            self._changed.wait()  # until another thread has loaded it, or lets go of what takes its place
        for each in needed:
            resident = self._residents.get(each) or places[each]
            resident.users.append(thread)
            self._residents[each] = resident
            self._residents.move_to_end(each)
        return needed, missing

    def _places(
        self, wanted: Wanted, needed: Sequence[Wanted], missing: Sequence[Wanted]
    ) -> dict[Wanted, _Resident] | None:
        """Returns empty places for what is missing: whole if all of it fits, else, where it may be, as large as there is room.

        None where something that fits only in part is loaded whole: that has been let go of. Raises MemoryBudgetError.
        """
        sizes = {each: each.size for each in missing}
        kept = self._with_bases([each for each in needed if each in self._residents])
        used = sum(self._residents[each].size for each in kept)
        whole = used + sum(sizes.values())
        limit = self._limit()
        if whole <= limit:
            return {each: _Resident(size) for each, size in sizes.items()}
        least = {each: each.least for each in missing}
        spare = int(OFFLOADING_SHARE * limit) - used - sum(least.values())
        if self._offload and spare >= 0 and any(least[each] < sizes[each] for each in missing):
            places = {}
            for each in missing:
                extra = min(spare, sizes[each] - least[each])
                size = least[each] + extra
                places[each] = _Resident(size, None if size == sizes[each] else size)
                spare -= extra
            left = sum(sizes[each] - places[each].size for each in missing if not each.ingredients)
            host = self._free_bytes(HOST)
            if left <= host:
                return places
            there = f"{gibibytes(left)} of it would be on the host, where {gibibytes(host)} are free."
            raise MemoryBudgetError(self._refusal(wanted, whole, limit, f"{there} {self._lighter(wanted, limit)}"))
        divisible = [each for each in kept if each.least < self._residents[each].size and self._is_idle(each)]
        if self._offload and divisible:
            for each in divisible:
                self._let_go(each)
            return None
        raise MemoryBudgetError(self._refusal(wanted, whole, limit, self._lighter(wanted, limit)))

    def _limit(self) -> int:
        """Returns how many bytes of weights the device may hold now."""
        return min(self.budget_bytes, self._resident_bytes() + self._free_bytes(self.policy.device))

    def _is_idle(self, wanted: Wanted) -> bool:
        """Returns whether nobody uses a network, nor one that uses its tensors."""
        return not any(
            resident.users for each, resident in self._residents.items() if wanted in self._with_bases([each])
        )

    def _let_go(self, wanted: Wanted) -> None:
        """Lets go of a network and of all that use its tensors."""
        for each in [each for each in self._residents if wanted in self._with_bases([each])]:
            del self._residents[each]

    def _leave(self, needed: Sequence[Wanted], thread: int) -> None:
        """Ends a thread's use of these sources; places that it did not fill are gone."""
        with self._changed:
            for each in needed:
                resident = self._residents[each]
                resident.users.remove(thread)
                if resident.network is None:
                    del self._residents[each]
            self._changed.notify_all()

    def _needed(self, wanted: Wanted) -> list[Wanted]:
        """Returns what must be in memory for the source to be loaded, ingredients first and the source last."""
        order: dict[Wanted, None] = {}
        pending = [wanted]
        while pending:
            each = pending.pop()
            order.pop(each, None)
            order[each] = None
            if each not in self._residents:
                pending.extend(each.ingredients)
        return list(reversed(order))

    def _make_room(self, wanted: Wanted, places: Mapping[Wanted, _Resident], needed: Sequence[Wanted]) -> bool:
        """Evicts what it must and returns whether the places fit now; raises MemoryBudgetError where waiting is vain."""
        size = sum(place.size for place in places.values())
        kept = self._with_bases([each for each in needed if each in self._residents])
        limit = self._limit()
        if self._evict_until(limit - size, kept):
            return True
        if any(threading.get_ident() in resident.users for resident in self._residents.values()):
            cure = "Raise the budget, or use these networks one after the other."
            raise MemoryBudgetError(self._refusal(wanted, size, limit, cure))
        return False

    def _with_bases(self, sources: Iterable[Wanted]) -> set[Wanted]:
        """Returns the sources with all those whose tensors they use."""
        found: set[Wanted] = set()
        pending = list(sources)
        while pending:
            each = pending.pop()
            found.add(each)
            pending.extend(each.ingredients[:1])
        return found

    def _evict_until(self, allowed: int, kept: Collection[Wanted] = ()) -> bool:
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

    def _refusal(self, wanted: Wanted, size: int, limit: int, cure: str) -> str:
        in_use = sum(resident.size for resident in self._residents.values() if resident.users)
        return (
            f"{wanted.title} takes {gibibytes(size)}, but the weights on {self.policy.device} may take "
            f"{gibibytes(limit)}, of which {gibibytes(in_use)} are in use. {cure}"
        )

    def _lighter(self, wanted: Wanted, limit: int) -> str:
        """Returns in a sentence which setting would let a network fit, if any does."""
        for precision in ("auto", "bf16"):
            needed = self._needed(Wanted(wanted.source, resolve(precision, self.policy.device)))
            size = sum(each.size for each in needed)
            if size <= limit:
                return f"In precision {precision} it takes {gibibytes(size)} and fits."
        return "Raise the budget, or choose a file in fewer bits (float8, GGUF) or a smaller model."
