"""`autotc bench calibrate`: run what is missing, then analyse and write."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autotc import calibration
from autotc._process import shared_cores
from autotc.adapter import resolve_model
from autotc.calibration import methods, page, picture, run, study
from autotc.calibration.frozen import frozen
from autotc.calibration.published import duels, entries, yardstick
from autotc.errors import SpecError
from autotc.export import write_text
from autotc.proxies import proxy_folder
from autotc.workload import parse_workload

MODELS = {
    "llava-tiny": "llava-1.5-7b",
    "qwen2_5_vl-tiny": "qwen2.5-vl",
}  # whose published settings are mapped


def measure(
    proxy: str, examples: int, out: Path, processes: int | None, done: Callable[[str], None]
) -> run.Measured:
    """Run the published methods on a proxy, going on with what the folder holds.

    Args:
        proxy: its name.
        examples: a policy.
        out: folder of the .npz files.
        processes: that share the examples; default: one a core, at most four.
        done: called after each policy with a line that says which.

    Raises:
        SpecError: no such proxy.
    """
    if proxy not in MODELS:
        raise SpecError(f"--proxy: {proxy!r} is none of {', '.join(MODELS)}")
    full = resolve_model(MODELS[proxy]).anatomy
    folder = proxy_folder(full.family)
    assert folder is not None
    planned, _ = methods.plan(full, resolve_model(str(folder)).anatomy, parse_workload("vqa"))
    tested = {name for s in yardstick(duels(entries())) for name in (s.winner, s.loser)}
    planned.sort(key=lambda item: item.method not in tested)  # what the test needs comes first
    out.mkdir(parents=True, exist_ok=True)
    count = iter(range(1, len(planned) + 1))
    return run.measure(
        folder,
        planned,
        out / f"{proxy}.npz",
        examples,
        processes or shared_cores(folder, os.cpu_count() or 1)["processes"],
        lambda label: done(f"{proxy} {next(count)}/{len(planned)}: {label}"),
    )


def analyse(out: Path) -> dict[str, Any]:
    """Analyse the outcomes in a folder, write page and picture there, and the verdict that autotc prints everywhere.

    Raises:
        SpecError: no outcomes there, or they are not of these scenes and weights.
    """
    paths = [out / f"{proxy}.npz" for proxy in MODELS if (out / f"{proxy}.npz").is_file()]
    if not paths:
        raise SpecError(f"--out: {out}: no outcomes there; leave --analyse-only out to make them")
    measured = [run.Measured.read(path) for path in paths]
    for found in measured:
        if found.frozen != frozen(found.proxy):
            raise SpecError(
                f"{out / found.proxy}.npz: measured with other weights or scenes than those installed; "
                "leave --analyse-only out to run it again"
            )
    result = study.calibration(measured)
    picture.write(result, out / "retention.png")
    write_text(out / "README.md", page.write(result, "retention.png"))
    calibration.publish(study.verdicts(result))
    return result
