"""How much memory there is, for weights by default and free right now: what machine, container and device allow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch

SHARE = 0.7  # the rest is for activations, pictures and everybody else
_UNLIMITED = 1 << 60  # cgroup v1 writes "no limit" as a number near 2**63
_ROOT, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def default_budget(device: torch.device) -> int:
    """Returns a byte budget for weights on a device: a share of its memory, or of what the process may use."""
    if device.type == "cuda":
        _, total = torch.cuda.mem_get_info(device)
        return int(SHARE * total)
    return int(SHARE * min(_machine_bytes(), cgroup_limit() or _UNLIMITED))


def free_bytes(device: torch.device, root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> int:
    """Returns the bytes that can be allocated on a device now; what torch or the system keeps but would give up is free."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    rooms = [_available_bytes()]
    for base, files, path in _memory_groups(root, membership):
        for folder in _upwards(base, path):
            if (limit := _number(folder / files.limit)) < _UNLIMITED:
                used = _number(folder / files.usage) - _statistic(folder / "memory.stat", files.reclaimable)
                rooms.append(limit - used)
    return max(0, min(rooms))


def cgroup_limit(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> int | None:
    """Returns the tightest memory limit of the process's control groups (version 1 and 2) in bytes, or None."""
    groups = _memory_groups(root, membership)
    limits = [_number(folder / files.limit) for base, files, path in groups for folder in _upwards(base, path)]
    tightest = min(limits, default=_UNLIMITED)
    return None if tightest >= _UNLIMITED else tightest


def gibibytes(size: int) -> str:
    """Returns a size for a message: "3.42 GiB"."""
    return f"{size / 2**30:.2f} GiB"


class _Files(NamedTuple):
    """The files of a control group; reclaimable: what of its usage is pages of files that nobody has touched lately."""

    limit: str
    usage: str
    reclaimable: str


_VERSION_2 = _Files("memory.max", "memory.current", "inactive_file")
_VERSION_1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _memory_groups(root: Path, membership: Path) -> list[tuple[Path, _Files, str]]:
    """Returns (mount, names of its files, the group's path) for each hierarchy that limits memory."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            groups.append((root, _VERSION_2, path))
        elif "memory" in controllers.split(","):
            groups.append((root / "memory", _VERSION_1, path))
    return groups


def _upwards(base: Path, path: str) -> list[Path]:
    """Returns the folder of a group and those of the groups that it is in."""
    folder = base / path.strip("/")
    return [each for each in (folder, *folder.parents) if each.is_relative_to(base)]


def _number(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return _UNLIMITED


def _statistic(file: Path, name: str) -> int:
    """Returns a value of a file of names and values, 0 if it is not there."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)


def _available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Returns what the machine could give; where the system does not say, half of what it has."""
    kibibytes = _statistic(meminfo, "MemAvailable:")
    return 1024 * kibibytes if kibibytes else _machine_bytes() // 2


def _machine_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
