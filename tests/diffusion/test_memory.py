from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from latentgraph.diffusion.networks import budget
from latentgraph.diffusion.networks.budget import cgroup_limit, default_budget
from latentgraph.diffusion.networks.memory import MemoryBudgetError, WeightMemory, Weights
from latentgraph.diffusion.networks.precision import NumericPolicy


@dataclass(frozen=True)
class Toy:
    """A source of `bytes_` bytes that counts how often it is loaded."""

    name: str
    bytes_: int = 40
    loads: list[str] = field(default_factory=list, compare=False)
    gate: threading.Event | None = field(default=None, compare=False)
    failures: list[Exception] = field(default_factory=list, compare=False)
    ingredients: tuple[Toy, ...] = ()

    @property
    def title(self) -> str:
        return f"toy {self.name}"

    def size(self, policy: NumericPolicy) -> int:
        return self.bytes_

    def load(self, policy: NumericPolicy, *ingredients: str) -> str:
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.failures:
            raise self.failures.pop()
        self.loads.append(self.name)
        return f"network {self.name}" + "".join(f" on {ingredient}" for ingredient in ingredients)


def memory_of(budget_bytes: int) -> WeightMemory:
    return WeightMemory(budget_bytes=budget_bytes)


def use(memory: WeightMemory, *sources: Toy) -> None:
    for source in sources:
        with Weights(memory, source).use():
            pass


def test_a_network_is_loaded_on_first_use_and_kept() -> None:
    memory, toy = memory_of(100), Toy("a")
    assert not memory.is_resident(toy)
    with Weights(memory, toy).use() as network:
        assert network == "network a"
    use(memory, toy)
    assert toy.loads == ["a"]
    assert memory.resident_bytes == 40


def test_equal_sources_share_one_copy_and_one_hash() -> None:
    memory, toy = memory_of(100), Toy("a")
    twin = Toy("a")
    use(memory, toy, twin)
    assert (toy.loads, twin.loads) == (["a"], [])
    assert len({Weights(memory, toy), Weights(memory, twin)}) == 1


def test_the_network_unused_for_longest_makes_room() -> None:
    memory = memory_of(100)
    a, b, c = Toy("a"), Toy("b"), Toy("c")
    use(memory, a, b, a, c)
    assert [memory.is_resident(toy) for toy in (a, b, c)] == [True, False, True]
    assert memory.resident_bytes == 80


def test_a_network_in_use_is_never_evicted() -> None:
    memory = memory_of(100)
    a, b, c = Toy("a"), Toy("b"), Toy("c")
    with Weights(memory, a).use():
        use(memory, b, c)
        assert memory.is_resident(a)
        assert not memory.is_resident(b)
        memory.evict_unused()
        assert memory.is_resident(a)
    memory.evict_unused()
    assert memory.resident_bytes == 0


def test_what_can_never_fit_is_refused_with_numbers() -> None:
    memory = memory_of(1 << 30)
    with pytest.raises(MemoryBudgetError, match=r"toy big takes 3\.00 GiB.*may take 1\.00 GiB"):
        use(memory, Toy("big", 3 << 30))
    assert memory.resident_bytes == 0


def test_a_thread_that_holds_a_network_is_refused_a_second_one_that_does_not_fit() -> None:
    memory = memory_of(60)
    with Weights(memory, Toy("a")).use(), pytest.raises(MemoryBudgetError, match="toy b"):
        use(memory, Toy("b"))
    use(memory, Toy("b"))


def test_a_thread_that_holds_nothing_waits_for_room() -> None:
    memory = memory_of(60)
    a, b = Toy("a"), Toy("b")
    waiter = threading.Thread(target=use, args=(memory, b))
    with Weights(memory, a).use():
        waiter.start()
        waiter.join(0.05)
        assert waiter.is_alive()
    waiter.join(10)
    assert b.loads == ["b"]


def test_threads_that_want_one_network_load_it_once() -> None:
    memory, toy = memory_of(100), Toy("a", gate=threading.Event())
    threads = [threading.Thread(target=use, args=(memory, toy)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert toy.gate is not None
    toy.gate.set()
    for thread in threads:
        thread.join(10)
    assert toy.loads == ["a"]


def test_a_load_that_fails_leaves_no_trace() -> None:
    memory, toy = memory_of(100), Toy("a", failures=[OSError("gone")])
    with pytest.raises(OSError, match="gone"):
        use(memory, toy)
    assert memory.resident_bytes == 0
    use(memory, toy)
    assert toy.loads == ["a"]


def test_many_threads_stay_within_the_budget() -> None:
    memory = memory_of(100)
    seen: list[int] = []

    def work(seed: int) -> None:
        for i in range(50):
            with Weights(memory, Toy(str((seed * 7 + i * 3) % 5), 30)).use() as network:
                assert network is not None
                seen.append(memory.resident_bytes)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(seen) == 300
    assert max(seen) <= 100


def test_the_default_budget_is_positive_and_below_the_machine() -> None:
    assert 0 < default_budget(torch.device("cpu")) < 1 << 50


def test_the_default_budget_is_a_share_of_what_a_container_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "cgroup_limit", lambda: 1000)
    assert default_budget(torch.device("cpu")) == 700


def test_the_tightest_control_group_limits_the_budget(tmp_path: Path) -> None:
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    (root / "outer" / "inner").mkdir(parents=True)
    (root / "outer" / "memory.max").write_text("4096\n")
    (root / "outer" / "inner" / "memory.max").write_text("max\n")
    membership.write_text("0::/outer/inner\n")
    assert cgroup_limit(root, membership) == 4096


def test_control_groups_of_version_one_limit_too(tmp_path: Path) -> None:
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    (root / "memory" / "job").mkdir(parents=True)
    (root / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (root / "memory" / "job" / "memory.limit_in_bytes").write_text("8192\n")
    membership.write_text("5:cpu,cpuacct:/job\n4:memory:/job\n")
    assert cgroup_limit(root, membership) == 8192


def test_no_control_group_means_no_limit(tmp_path: Path) -> None:
    assert cgroup_limit(tmp_path, tmp_path / "missing") is None


def test_a_network_made_from_another_is_given_it_and_shares_it() -> None:
    memory, base = memory_of(200), Toy("a")
    first, second = Toy("x", 10, ingredients=(base,)), Toy("y", 10, ingredients=(base,))
    with Weights(memory, first).use() as network:
        assert network == "network x on network a"
    use(memory, second, first, base)
    assert (base.loads, first.loads, second.loads) == (["a"], ["x"], ["y"])
    assert memory.resident_bytes == 60


def test_a_base_stays_as_long_as_what_uses_its_tensors() -> None:
    memory = memory_of(100)
    base, other = Toy("a"), Toy("b", 20)
    derived = Toy("x", 10, ingredients=(base,))
    use(memory, base, derived, other)
    use(memory, Toy("c", 35))  # room for it is made by the derived network, which is the older one
    assert [memory.is_resident(toy) for toy in (base, derived, other)] == [True, False, True]
    use(memory, Toy("d", 40))
    assert [memory.is_resident(toy) for toy in (base, derived, other)] == [False, False, True]


def test_a_base_is_not_evicted_while_what_uses_its_tensors_is_in_use() -> None:
    memory, base = memory_of(100), Toy("a")
    derived = Toy("x", 10, ingredients=(base,))
    with Weights(memory, derived).use():
        memory.evict_unused()
        assert memory.is_resident(base)
    memory.evict_unused()
    assert memory.resident_bytes == 0


def test_what_a_network_was_merely_made_from_may_go() -> None:
    memory = memory_of(100)
    base, other = Toy("a", 30), Toy("b", 30)
    merged = Toy("m", 30, ingredients=(base, other))
    with Weights(memory, merged).use() as network:
        assert network == "network m on network a on network b"
        memory.evict_unused()
        assert [memory.is_resident(toy) for toy in (base, other, merged)] == [True, False, True]


def test_a_chain_of_networks_is_loaded_from_its_beginning() -> None:
    memory, base = memory_of(100), Toy("a", 10)
    middle = Toy("x", 10, ingredients=(base,))
    with Weights(memory, Toy("y", 10, ingredients=(middle, base))).use() as network:
        assert network == "network y on network x on network a on network a"
    assert (base.loads, middle.loads) == (["a"], ["x"])


def test_a_network_and_its_base_that_can_never_fit_together_are_refused() -> None:
    memory, base = memory_of(100), Toy("a", 60)
    with pytest.raises(MemoryBudgetError, match="toy x takes"):
        use(memory, Toy("x", 50, ingredients=(base,)))
    use(memory, base)
    with pytest.raises(MemoryBudgetError, match="toy x takes"):
        use(memory, Toy("x", 50, ingredients=(base,)))


def test_a_base_that_loaded_stays_when_what_is_made_from_it_fails() -> None:
    memory, base = memory_of(100), Toy("a")
    derived = Toy("x", 10, ingredients=(base,), failures=[OSError("gone")])
    with pytest.raises(OSError, match="gone"):
        use(memory, derived)
    assert memory.is_resident(base)
    assert not memory.is_resident(derived)
    use(memory, derived)
    assert (base.loads, derived.loads) == (["a"], ["x"])
    memory.evict_unused()
    assert memory.resident_bytes == 0


def test_threads_with_different_adapters_stay_within_the_budget() -> None:
    memory = memory_of(100)
    seen: list[int] = []

    def work(seed: int) -> None:
        for i in range(40):
            base = Toy(f"base {(seed + i) % 2}", 30)
            derived = Toy(f"derived {(seed * 5 + i) % 3}", 20, ingredients=(base, Toy("other", 20)))
            with Weights(memory, derived).use() as network:
                assert network.endswith(f"on network {base.name} on network other")
                seen.append(memory.resident_bytes)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(seen) == 240
    assert max(seen) <= 100
    memory.evict_unused()
    assert memory.resident_bytes == 0
