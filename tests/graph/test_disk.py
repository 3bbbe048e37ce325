"""The cache on disk: an entry is whole or a miss, whatever happens to the file, the folder, or between processes."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from latentgraph.graph import DiskCache, DiskUse, Hit

from .fakes import CODEC, Handle, Number, plain

KEY, OTHER = "ab" * 32, "cd" * 32
PORTS = {"number": Number(2.5), "all": [Number(1), "text"], "plain": 7}


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path, CODEC, 1 << 20)


def values(hit: Hit | None) -> dict[str, object] | None:
    return None if hit is None else {name: plain(value) for name, value in hit.ports.items()}


EXPECTED = {"number": 2.5, "all": [1.0, "text"], "plain": 7}


@pytest.fixture
def entry(cache: DiskCache) -> Path:
    cache.put(KEY, PORTS, 0.5)
    return cache.path(KEY)


def test_an_entry_is_a_valid_safetensors_file(entry: Path) -> None:
    with safe_open(entry, framework="numpy") as file:
        assert set(file.keys()) == {"number/value", "all/0/value"}
        assert file.get_tensor("number/value").tolist() == [2.5]
        assert "latentgraph" in file.metadata()
    (size,) = struct.unpack("<Q", entry.read_bytes()[:8])
    assert size % 8 == 0


def test_another_cache_on_the_same_folder_has_it(cache: DiskCache, entry: Path) -> None:
    again = DiskCache(cache.folder, CODEC, 1 << 20)
    assert again.tier(KEY) == "disk"
    assert values(again.get(KEY)) == EXPECTED


def test_an_entry_that_was_cut_anywhere_is_a_miss_and_is_removed(cache: DiskCache, entry: Path) -> None:
    whole = entry.read_bytes()
    for length in range(len(whole)):
        entry.write_bytes(whole[:length])
        assert cache.get(KEY) is None, length
        assert not entry.exists()
    entry.write_bytes(whole + b"\0")
    assert cache.get(KEY) is None
    entry.write_bytes(whole)
    assert values(cache.get(KEY)) == EXPECTED


def test_a_flipped_bit_is_a_miss_or_changes_nothing(cache: DiskCache, entry: Path) -> None:
    """In the JSON of the header a flip may leave what is said as it was, such as `E` for `e` in a number."""
    whole = entry.read_bytes()
    (head,) = struct.unpack("<Q", whole[:8])
    harmless = 0
    for at in range(len(whole)):
        for bit in (0, 5) if at < 8 + head else range(8):
            entry.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
            found = values(cache.get(KEY))
            assert found in (None, EXPECTED), (at, bit)
            assert found is None or at < 8 + head, "every byte of the tensors counts"
            harmless += found is not None
    assert harmless < 5


def test_an_entry_under_the_name_of_another_key_is_a_miss(cache: DiskCache, entry: Path) -> None:
    wrong = cache.path(OTHER)
    wrong.parent.mkdir(parents=True)
    entry.rename(wrong)
    assert cache.get(OTHER) is None


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"null", struct.pack("<Q", 2) + b"{}", b"\xff" * 64, struct.pack("<Q", 4) + b"[[[["]
)
def test_a_foreign_file_is_a_miss(cache: DiskCache, entry: Path, content: bytes) -> None:
    entry.write_bytes(content)
    assert cache.get(KEY) is None


def test_what_cannot_be_written_down_is_left_out(cache: DiskCache) -> None:
    cache.put(KEY, {"a": Number(1), "handle": Handle()}, 1.0)
    assert cache.tier(KEY) is None
    assert cache.use() == DiskUse(0, 0)


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from fakes import CODEC, Number
from pathlib import Path
from latentgraph.graph import DiskCache
cache = DiskCache(Path(sys.argv[2]), CODEC, 6000)
wrong = 0
for turn in range(25):
    for index in range(6):
        key = f"{index:02x}" * 32
        hit = cache.get(key)
        wrong += hit is not None and [n.value for n in hit.ports["a"]] != [float(index)] * 40
        cache.put(key, {"a": [Number(float(index))] * 40}, 1.0)
print(wrong)
"""


def test_processes_that_write_and_prune_at_once_never_see_anything_wrong(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", WRITER, str(Path(__file__).parent), str(tmp_path)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for writer in writers:
        said, complained = writer.communicate(timeout=60)
        assert (said.strip(), complained) == ("0", "")
    assert not list(tmp_path.rglob("*.tmp"))


def fill(cache: DiskCache, count: int) -> list[str]:
    """Puts entries of equal size, each used later than the one before."""
    keys = [f"{index:02x}" * 32 for index in range(count)]
    for index, key in enumerate(keys):
        cache.put(key, {"a": index}, 1.0)
        if cache.path(key).exists():
            os.utime(cache.path(key), (1000 + index, 1000 + index))
    return keys


def test_the_cap_holds_and_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    unlimited = DiskCache(tmp_path / "unlimited", CODEC, 1 << 20)
    fill(unlimited, 1)
    size = unlimited.use().bytes
    cache = DiskCache(tmp_path / "capped", CODEC, size * 10)
    keys = fill(cache, 10)
    assert cache.use() == DiskUse(10, size * 10)
    assert cache.get(keys[0]) is not None  # now it is the one used last
    cache.put("ff" * 32, {"a": 3}, 1.0)
    assert cache.use().bytes <= size * 9
    assert [cache.tier(key) for key in (keys[0], keys[1], keys[2], "ff" * 32)] == ["disk", None, None, "disk"]


def test_the_cap_holds_for_several_caches_on_one_folder(tmp_path: Path) -> None:
    caches = [DiskCache(tmp_path, CODEC, 8000) for _ in range(4)]
    for index in range(120):
        caches[index % 4].put(f"{index:064x}"[::-1], {"a": index}, 1.0)
    assert caches[0].use().bytes <= 8000 * 1.3


def test_what_is_larger_than_the_cap_is_not_kept(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, CODEC, 100)
    cache.put(KEY, {"a": "x" * 1000}, 1.0)
    assert cache.use() == DiskUse(0, 0)


def test_pruning_and_clearing_say_what_they_removed(cache: DiskCache) -> None:
    keys = fill(cache, 4)
    size = cache.use().bytes // 4
    assert cache.prune(size * 3) == DiskUse(1, size)
    assert cache.tier(keys[0]) is None
    assert cache.clear() == DiskUse(3, size * 3)
    assert cache.use() == DiskUse(0, 0)


def test_drafts_of_processes_that_died_are_removed_and_those_of_others_left(cache: DiskCache, entry: Path) -> None:
    old, young = entry.with_suffix(".1.tmp"), entry.with_suffix(".2.tmp")
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    os.utime(old, (0, 0))
    cache.prune()
    assert (old.exists(), young.exists(), entry.exists()) == (False, True, True)


def test_a_full_disk_leaves_nothing_behind_and_harms_nothing(
    cache: DiskCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        cache.put(KEY, PORTS, 1.0)
    assert "can't be written" in caplog.text
    assert [path for path in cache.folder.rglob("*") if path.is_file()] == []
    cache.put(KEY, PORTS, 1.0)
    assert values(cache.get(KEY)) == EXPECTED


def test_a_read_only_folder_serves_what_it_has(cache: DiskCache, entry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rights are simulated, since whoever runs the tests may have all of them."""

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(os, "utime", refuse)
    assert values(cache.get(KEY)) == EXPECTED
    cache.put(OTHER, PORTS, 1.0)
    assert cache.get(OTHER) is None
    assert cache.clear() == DiskUse(0, 0)
    with entry.open("r+b") as file:
        file.write(b"broken")
    assert cache.get(KEY) is None  # though it can't be removed


def test_a_folder_that_is_none_is_no_fault(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    cache = DiskCache(blocked / "cache", CODEC, 1 << 20)
    cache.put(KEY, PORTS, 1.0)
    assert (cache.get(KEY), cache.tier(KEY), cache.use(), cache.prune()) == (None, None, DiskUse(0, 0), DiskUse(0, 0))
