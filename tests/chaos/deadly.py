"""An evaluation child, with its real pipes and its real deaths, whose model is fake: some policies end the process."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from autotc._outcomes import Outcomes
from autotc.policy import Policy
from tests.fakes import FakeEvaluator

REFERENCES = 14  # policies that every study begins with
ROOM_BYTES = 64 << 20
KINDS = {1: "always", 3: "memory", 4: "once"}  # every sixth trial's, from the second, fourth and fifth on


def kind(index: int) -> str:
    """Return what the policy that was met as number `index` does to its process: fine, once, always or memory."""
    return "fine" if index < REFERENCES else KINDS.get((index - REFERENCES) % 6, "fine")


def met(folder: Path) -> dict[str, int]:
    """Return the policies that processes have run so far, by the order in which they were met."""
    return {place.readlink().name: int(place.name) for place in folder.iterdir()}


def meet(folder: Path, policy: Policy) -> tuple[int, bool]:
    """Return the number of a policy, and whether it was met before."""
    while True:
        known = met(folder)
        if policy.id in known:
            return known[policy.id], True
        try:
            (folder / str(len(known))).symlink_to(policy.id)
        except FileExistsError:  # another process met another policy at this moment
            continue
        return len(known), False


def end(policy: Policy) -> None:
    """End this process: by a wrong address, or as the kernel does when memory is out."""
    if int(policy.id[8], 16) % 2:
        ctypes.string_at(0)
    os.kill(os.getpid(), signal.SIGKILL)


def use_up_memory() -> None:
    """Ask for more memory than this process may have."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM_BYTES, before[1]))
    try:
        bytearray(4 * ROOM_BYTES)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class Deadly:
    """Takes the place of `Evaluator` in the child."""

    def __init__(self, model: str, task: Any, **options: Any) -> None:
        self.folder, self.fake = Path(model), FakeEvaluator()
        self.task = SimpleNamespace(examples=lambda split, n: range(n))

    def evaluate(self, policy: Policy | None, split: str, n: int, *, start: int = 0) -> Outcomes:
        """Return outcomes, or do not return."""
        if policy is not None and policy.stages:
            index, again = meet(self.folder, policy)
            what = kind(index)
            if what == "memory":
                use_up_memory()
            if what == "always" or (what == "once" and not again):
                end(policy)
        return self.fake.evaluate(policy, split, n, start=start)


def serve() -> None:
    """Be the child."""
    from autotc import _process

    stand_in = ModuleType("autotc.evaluate")
    stand_in.Evaluator = Deadly  # type: ignore[attr-defined]
    sys.modules["autotc.evaluate"] = stand_in
    _process.serve()
