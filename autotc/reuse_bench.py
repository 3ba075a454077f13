"""How much faster policies run when they share captured prefills."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from autotc.evaluate import Evaluator
from autotc.policy import SITES, Policy
from autotc.task import Task


def reuse_benchmark(
    folder: str | Path,
    task: Task,
    policies: Sequence[Policy],
    examples: int,
    *,
    on: str | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Time policies with and without reuse in one process, one after the other, and compare their figures.

    Loading, reading the data and running the references come before and count for neither side; what reuse
    has to capture counts for it.

    Args:
        folder: the model.
        task: the data; its search split is used.
        policies: to be run on that model.
        examples: examples a policy.
        on, threads: as for `Evaluator`.

    Returns:
        `sites` (by first site) and `overall` with `policies`, `plain_s`, `reuse_s` and `ratio`; `identical`:
        whether all figures are equal; `examples`, `on`, `threads`.
    """
    reusing = Evaluator(folder, task, on=on, threads=threads)
    plain = Evaluator(reusing.model, task, processor=reusing.processor, on=reusing.on, reuse=False)
    reusing.evaluate(None, "search", examples)
    plain.evaluate(None, "search", examples)
    reusing.forget()
    times: dict[str, list[tuple[float, float]]] = {}
    identical = True
    for policy in policies:
        one = plain.evaluate(policy, "search", examples)
        two = reusing.evaluate(policy, "search", examples)
        identical = identical and one.columns() == two.columns()
        site = policy.stages[0].site if policy.stages else "none"
        times.setdefault(site, []).append((one.seconds, two.seconds))
    sites = [_times(site, times[site]) for site in (*SITES, "none") if site in times]
    return {
        "sites": sites,
        "overall": _times("overall", [pair for pairs in times.values() for pair in pairs]),
        "identical": identical,
        "examples": examples,
        "on": reusing.on,
        "threads": torch.get_num_threads(),
    }


def _times(site: str, pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    plain, reuse = (sum(pair[i] for pair in pairs) for i in (0, 1))
    return {"site": site, "policies": len(pairs), "plain_s": plain, "reuse_s": reuse, "ratio": plain / reuse}
