"""Where a study's figures come from, and how to get them again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from autotc.workload import PROFILES, Workload

# options of `autotc search` by the name they are stored under
FLAGS = {
    "model": "--model",
    "max_tflops": "--max-tflops",
    "flops_convention": "--flops-convention",
    "max_memory_gib": "--max-memory-gib",
    "objectives": "--objective",
    "constraints": "--constraint",
    "data": "--data",
    "skip_bad": "--skip-bad",
    "examples": "--examples",
    "trials": "--trials",
    "until": "--until",
    "timeout": "--timeout",
    "sampler": "--sampler",
    "strategy": "--strategy",
    "all_presets": "--all-presets",
    "reducers": "--reducer",
    "deploy": "--deploy",
    "study": "--study",
    "seed": "--seed",
    "evaluate_on": "--evaluate-on",
    "workers": "--workers",
}


def command(spec: Mapping[str, Any]) -> str:
    """Return the `autotc search` command that repeats a stored search, every option spelled out.

    Args:
        spec: the search's document, as the store keeps it.
    """
    words = ["autotc", "search"]
    for name, flag in FLAGS.items():
        value = spec.get(name)
        if value is True:
            words.append(flag)
        elif isinstance(value, list):
            words += [word for item in value for word in (flag, str(item))]
        elif value is not None and value is not False:
            words += [flag, f"{value:.12g}" if isinstance(value, float) else str(value)]
    return " ".join(shlex.quote(word) for word in [*words, *_workload_option(spec)])


def workload(spec: Mapping[str, Any]) -> str:
    """Return the requests of a stored search in one line."""
    try:
        return Workload.from_dict(spec["workload"]).describe()
    except (KeyError, TypeError):  # written by another version
        return "not recorded"


def _workload_option(spec: Mapping[str, Any]) -> list[str]:
    load = spec.get("workload") or {}
    if load.get("name") in PROFILES:
        return ["--workload", str(load["name"])]
    if load.get("name") != "custom":
        return []  # the data's own mix, which comes from --data
    r = load["requests"][0]
    shape = f"images={r['images']},resolution={r['width']}x{r['height']}"
    return [
        "--workload",
        f"{shape},prompt={r['prompt_tokens']},new={r['new_tokens']},questions={r['questions']},batch={load['batch']}",
    ]
