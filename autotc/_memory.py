"""How much memory captured prefills may take."""

from __future__ import annotations

import os
from pathlib import Path

MOST = 6 << 30
UNKNOWN = 8 << 30  # of a machine that says nothing
# what a control group may use and uses, where one bounds this process, and the files it has read that give way;
# version 2, then version 1
GROUPS = (
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    (
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def default_limit_bytes() -> int:
    """Return a quarter of the memory that is free now, at most 6 GiB: other commands may run beside this one."""
    return min(available_bytes() // 4, MOST)


def available_bytes(root: Path = Path("/")) -> int:
    """Return the memory that can be had now, within the bound of a container; the machine's where nothing says more.

    Args:
        root: where `proc` and `sys` are.
    """
    found = [n for n in (_of_machine(root), *(_of_group(root, *names) for names in GROUPS)) if n is not None]
    return max(0, min(found)) if found else _total()


def _of_machine(root: Path) -> int | None:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None  # not Linux


def _of_group(root: Path, folder: str, limit: str, used: str, gives_way: str) -> int | None:
    group = root / folder
    try:
        free = int((group / limit).read_text()) - int((group / used).read_text())
        entries = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        return free + next((int(value) for name, value in entries if name == gives_way), 0)
    except (OSError, ValueError):
        return None  # no such group, or "max"


def _total() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return UNKNOWN
