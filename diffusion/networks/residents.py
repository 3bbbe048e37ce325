"""Which networks are in memory, what each takes and who uses it. It loads nothing, knows no lock and waits for nobody."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .weight_source import Wanted


@dataclass(slots=True)
class Resident:
    """A network in memory, or on its way there while `network` is None.

    size: its bytes on the device; room: how many it was given if that is less than it takes. users: the thread of each use.
    """

    size: int
    room: int | None = None
    network: Any = None
    users: list[int] = field(default_factory=list)


class Residents:
    """The networks in memory, by what each is known by, the least recently used first.

    The base of a network is the first of its ingredients, whose tensors it shares; a base stays as long as what shares them.
    """

    def __init__(self) -> None:
        self._by_wanted: OrderedDict[Wanted, Resident] = OrderedDict()

    def __iter__(self) -> Iterator[Wanted]:
        return iter(self._by_wanted)

    def __contains__(self, wanted: Wanted) -> bool:
        return wanted in self._by_wanted

    def __getitem__(self, wanted: Wanted) -> Resident:
        return self._by_wanted[wanted]

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(resident.size for resident in self._by_wanted.values())

    @property
    def used_bytes(self) -> int:
        """Bytes of those that are in use."""
        return sum(resident.size for resident in self._by_wanted.values() if resident.users)

    def is_loaded(self, wanted: Wanted) -> bool:
        """Returns whether a network is here, and not on its way."""
        return wanted in self and self[wanted].network is not None

    def are_used_by(self, thread: int) -> bool:
        """Returns whether a thread uses any of them."""
        return any(thread in resident.users for resident in self._by_wanted.values())

    def needed(self, wanted: Wanted) -> list[Wanted]:
        """Returns what must be in memory for a network to be loaded, ingredients first and itself last."""
        order: dict[Wanted, None] = {}
        pending = [wanted]
        while pending:
            each = pending.pop()
            order.pop(each, None)
            order[each] = None
            if each not in self:
                pending.extend(each.ingredients)
        return list(reversed(order))

    def with_bases(self, networks: Iterable[Wanted]) -> set[Wanted]:
        """Returns those of the networks that are here, with all whose tensors they share."""
        found: set[Wanted] = set()
        pending = [each for each in networks if each in self]
        while pending:
            each = pending.pop()
            found.add(each)
            pending.extend(each.ingredients[:1])
        return found

    def use(self, wanted: Wanted, thread: int, place: Resident | None = None) -> None:
        """Makes a thread a user of a network, and that the most recently used. place: where it goes if it is not here."""
        if place is not None:
            self._by_wanted.setdefault(wanted, place)
        self._by_wanted.move_to_end(wanted)
        self[wanted].users.append(thread)

    def leave(self, wanted: Wanted, thread: int) -> None:
        """Ends one use by a thread; a place that was not filled is gone."""
        resident = self[wanted]
        resident.users.remove(thread)
        if resident.network is None:
            del self._by_wanted[wanted]

    def let_go_divisible(self, networks: Collection[Wanted]) -> bool:
        """Lets go of idle ones that could take less, and of all that share their tensors; returns whether there were any."""
        divisible = [each for each in networks if each.least < self[each].size and self._is_idle(each)]
        for each in divisible:
            for other in self._sharing(each):
                del self._by_wanted[other]
        return bool(divisible)

    def evict_until(self, allowed: int, kept: Collection[Wanted] = ()) -> bool:
        """Lets go of unused networks, longest unused first, until `allowed` bytes stay; returns whether they do."""
        while self.nbytes > allowed:
            bases = {each.ingredients[0] for each in self if each.ingredients}
            unused = (each for each, resident in self._by_wanted.items() if not resident.users)
            victim = next((each for each in unused if each not in bases and each not in kept), None)
            if victim is None:
                return False
            del self._by_wanted[victim]
        return True

    def _sharing(self, wanted: Wanted) -> list[Wanted]:
        """Returns a network, and all that share its tensors."""
        return [each for each in self if wanted in self.with_bases([each])]

    def _is_idle(self, wanted: Wanted) -> bool:
        return not any(self[each].users for each in self._sharing(wanted))
