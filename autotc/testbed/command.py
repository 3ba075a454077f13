"""`autotc bench testbed` and `autotc bench search`: measure the policies, let strategies search among them, write."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from autotc.adapter import resolve_model
from autotc.errors import SpecError
from autotc.export import write_text
from autotc.proxies import proxy_folder
from autotc.search.space import Space
from autotc.testbed import ablation_page, lattice, page, picture, simulate
from autotc.testbed.ablation import ablate
from autotc.testbed.bed import Bed
from autotc.testbed.measure import BedScenes, Measured, measure
from autotc.testbed.study import study
from autotc.workload import parse_workload

WORKLOAD = "vqa"
LINE_S = 10.0  # between two lines of progress
KEPT_BYTES = 4 << 30  # of prefills, which all policies share
SLOW = ("gp",)  # seconds a proposal: only when named

Say = Callable[[str], None]


def files(out: Path, model: str) -> tuple[Space, Path, Path, Path]:
    """Return the space that a model's test-bed lies in, its proxy's folder, and the files of the test-bed.

    Raises:
        ModelError: unknown model.
        SpecError: no proxy ships for its family.
    """
    full = resolve_model(model).anatomy
    folder = proxy_folder(full.family)
    if folder is None:
        raise SpecError(f"--model {model}: no proxy ships for its family {full.family!r}")
    space = lattice.space_of(full, resolve_model(str(folder)).anatomy, parse_workload(WORKLOAD))
    return space, folder, out / f"policies-{folder.name}.json", out / f"outcomes-{folder.name}.npz"


def build(
    model: str, n: int, examples: int, seed: int, out: Path, device: str, threads: int | None, say: Say
) -> dict[str, Any]:
    """Draw the policies that are not there yet and measure what is missing; an interrupted run goes on.

    Returns:
        What the test-bed holds then, plain JSON data.

    Raises:
        SpecError: the folder holds more policies than that, or others, or outcomes of others.
    """
    from autotc.evaluate import Evaluator

    space, folder, policies, outcomes = files(out, model)
    out.mkdir(parents=True, exist_ok=True)
    points = lattice.grow(policies, space, n, seed, say)
    task, last = BedScenes(), [0.0]
    evaluator = Evaluator(folder, task, threads=threads, device=device)

    def each(done: int, total: int, left_s: float) -> None:
        if time.monotonic() - last[0] > LINE_S or done == total:
            last[0] = time.monotonic()
            say(f"{done:,} of {total:,} runs of 128 examples, about {_duration(left_s)} left")

    say(
        f"{len(points):,} policies, {len(points) - n} of them recipes; an interrupted run goes on from {outcomes}"
    )
    name = f"proxy:{folder.name}"
    found = measure(
        [p.policy for p in points],
        evaluator,
        space.to_evaluated,
        task.fingerprint,
        name,
        outcomes,
        examples,
        each,
    )
    bed = Bed(space, points, found, examples)
    return {
        "status": bed.status,
        "complete": bed.complete,
        "policies": len(bed.policies),
        "examples": len(bed.full),
        "hours": round(found.seconds / 3600, 2),
        "files": [str(policies), str(outcomes)],
    }


def load(out: Path, model: str) -> Bed:
    """Return a model's test-bed.

    Raises:
        SpecError: there is none, or too little of it.
    """
    space, _, policies, outcomes = files(out, model)
    if not (policies.is_file() and outcomes.is_file()):
        raise SpecError(
            f"--bed {out}: no test-bed of {model} there. Measure one: autotc bench testbed --model {model}"
        )
    points, measured = lattice.read(policies, space), Measured.read(outcomes)
    if not measured.begins([p.policy for p in points]):
        raise SpecError(
            f"{outcomes}: holds other policies than {policies}; measure them again: autotc bench testbed"
        )
    return Bed(space, points, measured)


def compare(
    load_bed: Callable[[], Bed],
    strategies: Sequence[str],
    seeds: int,
    evaluations: int | None,
    workers: int,
    say: Say,
) -> dict[str, Any]:
    """Return what strategies do on a test-bed; see `study`.

    Args:
        load_bed: makes the test-bed, in this process and in each worker.
        strategies: by name.
        seeds: of each, from 0 on.
        evaluations: of an example, at most; None for 100 trials on all search examples.
        workers: processes.
    """
    bed = load_bed()
    say(f"test-bed {bed.status}")
    allowed = evaluations or 100 * len(bed.parts["search"])
    jobs = [(name, seed) for seed in range(seeds) for name in strategies]
    courses, begin = [], time.monotonic()
    with _pool(load_bed, bed, allowed, workers) as courses_of:
        for count, course in enumerate(courses_of(jobs), 1):
            courses.append(course)
            left = (time.monotonic() - begin) / count * (len(jobs) - count)
            say(
                f"{count} of {len(jobs)} searches, about {_duration(left)} left: {course.strategy}, "
                f"seed {course.seed}, {len(course.evaluations)} trials"
            )
    order = {name: i for i, name in enumerate(strategies)}
    return study(bed, sorted(courses, key=lambda c: (order[c.strategy], c.seed)), allowed)


def write(found: dict[str, Any], out: Path) -> None:
    """Write the page, the picture and the figures into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    made = _made("optuna", "numpy")
    picture.write(found, out / "search.png")
    write_text(out / "README.md", page.write(found, "search.png", made))
    write_text(out / "results.json", json.dumps(found, indent=1) + "\n")


def ablation(
    out: Path, model: str, seeds: int, evaluations: int, examples: int, threads: int | None, say: Say
) -> dict[str, Any]:
    """Return what each freedom of a policy is worth; see `ablate`.

    Args:
        out: folder of the test-bed.
        model: alias of the full model.
        seeds, evaluations: searches of each step, and what each may use.
        examples: of the selection split and of the held-out one, that picks are run on.
        threads: of torch.
        say: called with a line of progress.
    """
    from autotc.evaluate import Evaluator

    bed, (space, folder, _, _) = load(out, model), files(out, model)
    evaluator = Evaluator(folder, BedScenes(), threads=threads, limit_bytes=KEPT_BYTES)
    return ablate(
        bed,
        seeds,
        evaluations,
        lambda policy, split: evaluator.evaluate(space.to_evaluated(policy), split, examples),
        say,
    )


def write_ablation(found: dict[str, Any], out: Path) -> None:
    """Write the page, the picture and the figures into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    ablation_page.draw(found, out / "ablation.png")
    write_text(
        out / "ablation.md", ablation_page.write(found, "ablation.png", _made("torch", "transformers"))
    )
    write_text(out / "ablation.json", json.dumps(found, indent=1) + "\n")


def _made(*packages: str) -> str:
    """Return the hardware and the versions of packages in one line."""
    named = ", ".join(f"{name} {version(name)}" for name in ("autotc", *packages))
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {named}"


@contextmanager
def _pool(
    load_bed: Callable[[], Bed], bed: Bed, evaluations: int, workers: int
) -> Iterator[Callable[[list[tuple[str, int]]], Iterator[simulate.Course]]]:
    if workers == 1:
        runs = _runner(bed, evaluations)
        yield lambda jobs: map(runs, jobs)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of each worker: more would only wait for one another
    with ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_start, initargs=(load_bed, evaluations)
    ) as pool:
        yield lambda jobs: pool.map(_work, jobs)


def _runner(bed: Bed, evaluations: int) -> Callable[[tuple[str, int]], simulate.Course]:
    starts, known = simulate.starting_points(bed), simulate.presets(bed)

    def course(job: tuple[str, int]) -> simulate.Course:
        return simulate.run(bed, *job, evaluations, starts, known)

    return course


_worker: list[Callable[[tuple[str, int]], simulate.Course]] = []


def _start(load_bed: Callable[[], Bed], evaluations: int) -> None:
    _worker.append(_runner(load_bed(), evaluations))


def _work(job: tuple[str, int]) -> simulate.Course:
    return _worker[0](job)


def loader(out: Path, model: str) -> Callable[[], Bed]:
    """Return what loads a test-bed; it travels to worker processes."""
    return partial(load, out, model)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
