"""How many bytes of weights a device may hold by default: what the machine, its container and the device allow."""

from __future__ import annotations

import os
from pathlib import Path

import torch

SHARE = 0.7  # the rest is for activations, pictures and everybody else
_UNLIMITED = 1 << 60  # cgroup v1 writes "no limit" as a number near 2**63


def default_budget(device: torch.device) -> int:
    """Returns a byte budget for weights on a device: a share of its memory, or of what the process may use."""
    if device.type == "cuda":
        _, total = torch.cuda.mem_get_info(device)
        return int(SHARE * total)
    return int(SHARE * min(_machine_bytes(), cgroup_limit() or _UNLIMITED))


def cgroup_limit(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """Returns the tightest memory limit of the process's control groups (version 1 and 2) in bytes, or None."""
    limits = [_UNLIMITED]
    for base, name, path in _memory_groups(root, membership):
        folder = base / path.strip("/")
        limits += [_limit(parent / name) for parent in (folder, *folder.parents) if parent.is_relative_to(base)]
    tightest = min(limits)
    return None if tightest >= _UNLIMITED else tightest


def gibibytes(size: int) -> str:
    """Returns a size for a message: "3.42 GiB"."""
    return f"{size / 2**30:.2f} GiB"


def _memory_groups(root: Path, membership: Path) -> list[tuple[Path, str, str]]:
    """Returns (mount, name of the limit file, the group's path) for each hierarchy that limits memory."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            groups.append((root, "memory.max", path))
        elif "memory" in controllers.split(","):
            groups.append((root / "memory", "memory.limit_in_bytes", path))
    return groups


def _limit(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return _UNLIMITED


def _machine_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
