"""Which networks are in memory: kept by least-recent use under a byte budget, loaded when they are first used.

This module knows neither files nor networks: a `WeightSource` loads itself, from files or from other networks. It keeps
four promises: a network in use is never let go, equal sources share one copy, a network whose tensors another one uses
stays as long as that one does, and the sum of what is resident stays within the budget.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..names import Precision
from .budget import default_budget, free_bytes, gibibytes
from .exhaustion import Advice, OutOfMemoryError, Shortage, asked_bytes, general_advice
from .precision import NumericPolicy, resolve
from .residents import Resident, Residents
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
        self._residents = Residents()

    @property
    def resident_bytes(self) -> int:
        """Bytes of the networks that are loaded or being loaded."""
        with self._changed:
            return self._residents.nbytes

    def is_resident(self, source: WeightSource, policy: NumericPolicy | None = None) -> bool:
        """Returns whether a use of this source would find it loaded. policy: its formats, by default those of the memory."""
        with self._changed:
            return self._residents.is_loaded(Wanted(source, policy or self.policy))

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
                before = self._residents.nbytes
                self._residents.evict_until(max(0, before - missing))
                if self._residents.nbytes == before:
                    return False
        return True

    def evict_unused(self) -> None:
        """Lets go of every network that is not in use."""
        with self._changed:
            self._residents.evict_until(0)

    def _acquire(self, wanted: Wanted) -> Resident:
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
            needed = self._residents.needed(wanted)
            missing = [each for each in needed if each not in self._residents]
            if all(self._residents.is_loaded(each) for each in needed if each not in missing):
                places = self._places(wanted, needed, missing)
                if places is not None and self._make_room(wanted, places, needed):
                    break
                if places is None:
                    continue
            self._changed.wait()  # until another thread has loaded it, or lets go of what takes its place
        for each in needed:
            self._residents.use(each, thread, places.get(each))
        return needed, missing

    def _places(
        self, wanted: Wanted, needed: Sequence[Wanted], missing: Sequence[Wanted]
    ) -> dict[Wanted, Resident] | None:
        """Returns empty places for what is missing: whole if all of it fits, else, where it may be, as large as there is room.

        None where something that fits only in part is loaded whole: that has been let go of. Raises MemoryBudgetError.
        """
        sizes = {each: each.size for each in missing}
        kept = self._residents.with_bases(needed)
        used = sum(self._residents[each].size for each in kept)
        whole, limit = used + sum(sizes.values()), self._limit()
        if whole <= limit:
            return {each: Resident(size) for each, size in sizes.items()}
        if self._offload:
            least = {each: each.least for each in missing}
            spare = int(OFFLOADING_SHARE * limit) - used - sum(least.values())
            if spare >= 0 and any(least[each] < sizes[each] for each in missing):
                places = _places_within(sizes, least, spare)
                left = sum(sizes[each] - places[each].size for each in missing if not each.ingredients)
                host = self._free_bytes(HOST)
                if left <= host:
                    return places
                there = f"{gibibytes(left)} of it would be on the host, where {gibibytes(host)} are free."
                raise MemoryBudgetError(self._refusal(wanted, whole, limit, f"{there} {self._lighter(wanted, limit)}"))
            if self._residents.let_go_divisible(kept):
                return None
        raise MemoryBudgetError(self._refusal(wanted, whole, limit, self._lighter(wanted, limit)))

    def _limit(self) -> int:
        """Returns how many bytes of weights the device may hold now."""
        return min(self.budget_bytes, self._residents.nbytes + self._free_bytes(self.policy.device))

    def _leave(self, needed: Sequence[Wanted], thread: int) -> None:
        """Ends a thread's use of these sources; places that it did not fill are gone."""
        with self._changed:
            for each in needed:
                self._residents.leave(each, thread)
            self._changed.notify_all()

    def _make_room(self, wanted: Wanted, places: Mapping[Wanted, Resident], needed: Sequence[Wanted]) -> bool:
        """Evicts what it must and returns whether the places fit now; raises MemoryBudgetError where waiting is vain."""
        size = sum(place.size for place in places.values())
        limit = self._limit()
        if self._residents.evict_until(limit - size, self._residents.with_bases(needed)):
            return True
        if self._residents.are_used_by(threading.get_ident()):
            cure = "Raise the budget, or use these networks one after the other."
            raise MemoryBudgetError(self._refusal(wanted, size, limit, cure))
        return False

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
        return (
            f"{wanted.title} takes {gibibytes(size)}, but the weights on {self.policy.device} may take "
            f"{gibibytes(limit)}, of which {gibibytes(self._residents.used_bytes)} are in use. {cure}"
        )

    def _lighter(self, wanted: Wanted, limit: int) -> str:
        """Returns in a sentence which setting would let a network fit, if any does."""
        for precision in ("auto", "bf16"):
            needed = self._residents.needed(Wanted(wanted.source, resolve(precision, self.policy.device)))
            size = sum(each.size for each in needed)
            if size <= limit:
                return f"In precision {precision} it takes {gibibytes(size)} and fits."
        return "Raise the budget, or choose a file in fewer bits (float8, GGUF) or a smaller model."


def _places_within(sizes: Mapping[Wanted, int], least: Mapping[Wanted, int], spare: int) -> dict[Wanted, Resident]:
    """Returns empty places of the least size, with what is spare given to the first ones."""
    places = {}
    for each, whole in sizes.items():
        size = min(whole, least[each] + spare)
        places[each] = Resident(size, None if size == whole else size)
        spare -= size - least[each]
    return places
