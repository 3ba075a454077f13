"""What a search runs on: models, data and limits of the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from autotc.anatomy import Anatomy
from autotc.device.gauge import Gauge
from autotc.search._fidelity import Screen
from autotc.search._session import Evaluates
from autotc.search.space import Check
from autotc.workload import Workload


@dataclass(frozen=True)
class Setting:
    """What a search runs on; picklable, so that worker processes can build the same.

    Args:
        full: the model that costs are for.
        evaluated: the model that runs.
        on: how numbers name the evaluated model, e.g. "proxy:qwen2_5_vl-tiny".
        workload: the mix of requests.
        evaluator: makes an evaluator for a number of processes that share the machine.
        data: fingerprint of the examples.
        sizes: examples that each split has, up to the most that are asked for; a split not named has enough.
        timeout: seconds a run may take when the user names none; None for no limit.
        check: raises when a policy does not fit a model; `autotc.apply.check` by default.
        screen: the proxy that looks at proposals before the model runs them; None where it may not.
        gauge: measures latency and memory of a policy on a GPU; None where they stay estimates.
        notes: lines the user should read first.
    """

    full: Anatomy
    evaluated: Anatomy
    on: str
    workload: Workload
    evaluator: Callable[[int], Evaluates]
    data: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
    timeout: float | None = None
    check: Check | None = None
    screen: Screen | None = None
    gauge: Gauge | None = None
    notes: tuple[str, ...] = ()
