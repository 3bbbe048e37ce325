"""Which networks are in memory: kept by least-recent use under a byte budget, loaded when they are first used.

This module knows neither files nor networks: a `WeightSource` loads itself. It keeps three promises: a network in use
is never let go, equal sources share one copy, and the sum of what is resident stays within the budget.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from .budget import default_budget, gibibytes
from .precision import NumericPolicy, Precision, resolve


class MemoryBudgetError(Exception):
    """A network does not fit into the byte budget, even with everything evicted that is not in use."""


class WeightSource(Hashable, Protocol):
    """Where a network comes from. Equal sources give equal networks; hashing one is cheap and reads no weights."""

    @property
    def title(self) -> str:
        """What it is, for messages: "UNet of sd15.safetensors"."""

    def size(self, policy: NumericPolicy) -> int:
        """Returns the bytes that the loaded network takes, without loading it."""

    def load(self, policy: NumericPolicy) -> Any:
        """Reads the weights and returns the network, on the policy's device and in its number formats."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A light handle on a network's weights. Equal handles share one copy in memory."""

    memory: WeightMemory
    source: WeightSource

    @contextmanager
    def use(self) -> Iterator[Any]:
        """Yields the network, loading it if need be; it stays in memory at least until the block ends.

        The network is shared and must not be changed. It is diffusers' UNet2DConditionModel for a model, AutoencoderKL
        for a VAE, and for text encoders a dict from key ("clip_l", ...) to transformers' CLIPTextModel, or
        CLIPTextModelWithProjection where the file has a projection. Raises MemoryBudgetError.
        """
        with self.memory.hold(self.source) as network:
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
        self, *, budget_bytes: int | None = None, device: torch.device | str = "cpu", precision: Precision = "auto"
    ) -> None:
        self.policy = resolve(precision, device)
        self.budget_bytes = default_budget(self.policy.device) if budget_bytes is None else budget_bytes
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
    def hold(self, source: WeightSource) -> Iterator[Any]:
        """Yields the source's network and keeps it in memory until the block ends. Raises MemoryBudgetError."""
        thread = threading.get_ident()  # the block may end in another one
        resident = self._acquire(source)
        try:
            yield resident.network
        finally:
            with self._changed:
                resident.users.remove(thread)
                self._changed.notify_all()

    def evict_unused(self) -> None:
        """Lets go of every network that is not in use."""
        with self._changed:
            self._evict_until(0)

    def _acquire(self, source: WeightSource) -> _Resident:
        with self._changed:
            resident = self._enter(source)
            if resident.network is not None:
                return resident
        try:
            network = source.load(self.policy)
        except BaseException:
            with self._changed:
                del self._residents[source]
                self._changed.notify_all()
            raise
        with self._changed:
            resident.network = network
            self._changed.notify_all()
        return resident

    def _enter(self, source: WeightSource) -> _Resident:
        """Returns the source's place with this thread among its users; a new, empty place is the caller's to fill."""
        while True:
            resident = self._residents.get(source)
            if resident is None:
                size = source.size(self.policy)
                if self._make_room(source, size):
                    resident = self._residents[source] = _Resident(size)
                    break
            elif resident.network is not None:
                self._residents.move_to_end(source)
                break
            self._changed.wait()  # until another thread has loaded it, or lets go of what takes its place
        resident.users.append(threading.get_ident())
        return resident

    def _make_room(self, source: WeightSource, size: int) -> bool:
        """Evicts what it must and returns whether the size fits now; raises MemoryBudgetError where waiting is vain."""
        if size > self.budget_bytes:
            raise MemoryBudgetError(self._refusal(source, size, "Raise the budget or choose a smaller model."))
        if self._evict_until(self.budget_bytes - size):
            return True
        if any(threading.get_ident() in resident.users for resident in self._residents.values()):
            cure = "Raise the budget, or use these networks one after the other."
            raise MemoryBudgetError(self._refusal(source, size, cure))
        return False

    def _evict_until(self, allowed: int) -> bool:
        """Lets go of unused networks, longest unused first, until `allowed` bytes stay; returns whether they do."""
        for source in [source for source, resident in self._residents.items() if not resident.users]:
            if self._resident_bytes() <= allowed:
                break
            del self._residents[source]
        return self._resident_bytes() <= allowed

    def _resident_bytes(self) -> int:
        return sum(resident.size for resident in self._residents.values())

    def _refusal(self, source: WeightSource, size: int, cure: str) -> str:
        in_use = sum(resident.size for resident in self._residents.values() if resident.users)
        return (
            f"{source.title} takes {gibibytes(size)}, but the weights on {self.policy.device} may take "
            f"{gibibytes(self.budget_bytes)}, of which {gibibytes(in_use)} are in use. {cure}"
        )
