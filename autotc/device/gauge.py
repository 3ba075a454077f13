"""What a search asks of a GPU for each trial: its latency, memory and energy, measured in a process of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from autotc.device.trial import measure
from autotc.errors import UnsupportedError
from autotc.policy import Number, Policy
from autotc.workload import Workload

MEASURED = ("latency_ms", "memory_gib")  # costs that are then measured and no longer estimated


@dataclass(frozen=True)
class Gauged:
    """What was measured of a policy.

    Args:
        costs: measured values that stand in the place of estimates, by name.
        numbers: all figures, with what they were taken on.
        need_gib: memory it needs at least, where it ran out of memory; None where it did not.
        have_gib: memory of the device.
        why: a line on it, where it ran out of memory or something disturbed the measurement.
    """

    costs: dict[str, float] = field(default_factory=dict)
    numbers: tuple[Number, ...] = ()
    need_gib: float | None = None
    have_gib: float = math.inf
    why: str | None = None


Gauge = Callable[[Policy], Gauged]


@dataclass(frozen=True)
class DeviceGauge:
    """Measures policies of a model at a workload's batch; picklable, so that worker processes can hold one.

    Args:
        model: alias, id or folder.
        workload: of one shape of request.
        device: of torch.
        memory_gib: of the device.
    """

    model: str
    workload: Workload
    device: str
    memory_gib: float

    def __post_init__(self) -> None:
        if len(self.workload.requests) != 1:
            raise UnsupportedError(
                f"--measure: the workload has {len(self.workload.requests)} shapes of request and trials are measured "
                "on one; give one with --workload"
            )

    def __call__(self, policy: Policy) -> Gauged:
        """Measure one policy."""
        found = measure(
            self.model, policy, [self.workload.requests[0]] * self.workload.batch, self.device, energy=False
        )
        out = found["out_of_memory"]
        if out is not None:
            need = out["need_gib"] or self.memory_gib
            why = f"out of memory on {found['device']}: needs at least {need:.1f} GiB"
            return Gauged(need_gib=need, have_gib=self.memory_gib, why=why)
        numbers = tuple(Number(**n) for n in found["numbers"])
        costs = {n.name: n.value for n in numbers if n.name in MEASURED}
        disturbed = (found["card"] or {}).get("disturbed") or []
        return Gauged(costs, numbers, why=f"measured while {'; '.join(disturbed)}" if disturbed else None)
