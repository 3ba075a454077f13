"""Captured prefills take a share of the memory that is free, also inside a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotc import _memory

GIB = 1 << 30


def files(root: Path, **content: str) -> Path:
    places = {
        "meminfo": "proc/meminfo",
        "most": "sys/fs/cgroup/memory.max",
        "used": "sys/fs/cgroup/memory.current",
        "stat": "sys/fs/cgroup/memory.stat",
        "most_1": "sys/fs/cgroup/memory/memory.limit_in_bytes",
        "used_1": "sys/fs/cgroup/memory/memory.usage_in_bytes",
        "stat_1": "sys/fs/cgroup/memory/memory.stat",
    }
    for name, text in content.items():
        path = root / places[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def meminfo(free: int) -> str:
    return f"MemTotal:  {64 << 20} kB\nMemFree:  1 kB\nMemAvailable:  {free >> 10} kB\n"


def test_what_other_processes_hold_is_not_counted(tmp_path: Path) -> None:
    assert _memory.available_bytes(files(tmp_path, meminfo=meminfo(3 * GIB))) == 3 * GIB


@pytest.mark.parametrize("version", ["", "_1"])
def test_a_container_bounds_it(tmp_path: Path, version: str) -> None:
    read = "total_inactive_file" if version else "inactive_file"
    group = {
        f"most{version}": f"{2 * GIB}\n",
        f"used{version}": f"{GIB}\n",
        f"stat{version}": f"anon {GIB // 2}\n{read} {GIB // 2}\n",  # files that were read give way
    }
    assert _memory.available_bytes(files(tmp_path, meminfo=meminfo(30 * GIB), **group)) == 3 * GIB // 2
    over = files(tmp_path, **{f"used{version}": f"{3 * GIB}\n", f"stat{version}": ""})
    assert _memory.available_bytes(over) == 0


def test_a_group_without_a_bound_says_nothing(tmp_path: Path) -> None:
    root = files(tmp_path, meminfo=meminfo(5 * GIB), most="max\n", used=f"{GIB}\n")
    assert _memory.available_bytes(root) == 5 * GIB


def test_a_machine_that_says_nothing_has_its_whole_memory(tmp_path: Path) -> None:
    assert _memory.available_bytes(tmp_path) == _memory._total() > GIB
    assert _memory.available_bytes(files(tmp_path, meminfo="MemAvailable:\n")) == _memory._total()


def test_a_quarter_and_at_most_six(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, wanted in ((4 * GIB, GIB), (100 * GIB, 6 * GIB), (0, 0)):
        monkeypatch.setattr(_memory, "available_bytes", lambda free=free: free)
        assert _memory.default_limit_bytes() == wanted
