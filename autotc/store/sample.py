"""Made-up studies, written in bulk: what tests and benchmarks of the store's readers read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from autotc.policy import ModelRef, Policy, Stage
from autotc.store import engine
from autotc.store.rows import split_policy
from autotc.store.schema import (
    Base,
    Cost,
    Environment,
    Example,
    Lease,
    Metric,
    Outcome,
    PolicyDocument,
    Study,
    Trace,
    Trial,
)
from autotc.store.store import Store

MODEL = ModelRef(family="qwen2_5_vl", id="Qwen/Qwen2.5-VL-7B-Instruct", decoder_layers=28, vision_blocks=32)
ON = "proxy:qwen2_5_vl-tiny"
BEHIND = ("divprune", "visionzip", "gprune", "hiprune")
INSIDE = ("fastv", "pyramiddrop", "dart", "adaptprune")
GROUPS = ("read", "count", "where", "colour", "shape")
REFERENCES = ("uncompressed", "random", "downsample", "fastv", "visionzip", "pyramiddrop")
MADE_WITH = {
    "autotc": "0.1.0",
    "python": "3.12.4",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "optuna": "5.0.0",
    "cpu": "AMD EPYC 9654",
    "cores": 16,
    "gpu": ["NVIDIA H200"],
}
TOKENS = 576
EXAMPLES = 256
HELD_OUT = 40  # outcomes stored of a trial that was measured on held-out
START = datetime(2026, 1, 5, 9, tzinfo=UTC)
PORTION = 2000  # trials that are written at a time


@dataclass(frozen=True)
class Made:
    """What a search is told of a made-up trial: its parameters, quality, exact cost, and whether it is over."""

    number: int
    state: str
    params: dict[str, Any]
    quality: float
    cost: float
    violations: dict[str, float]


def fill(
    url: str,
    sizes: Sequence[int],
    seed: int = 0,
    params: Callable[[np.random.Generator], dict[str, Any]] | None = None,
    outcomes: int = 0,
    written: Callable[[str, list[Made]], None] = lambda name, made: None,
) -> list[str]:
    """Write studies that look like real ones into a database and return their names.

    The last study is running: one worker holds a trial, and one trial failed.

    Args:
        url: of a database that holds none of them yet.
        sizes: trials of each study, references apart.
        seed: other values, the same shape.
        params: draws the parameters of a trial.
        outcomes: stored ones of each trial on the search split.
        written: called with the trials of a study, in portions, after they were written.
    """
    random = np.random.default_rng(seed)
    store = Store(url)
    store.upgrade()
    names = [f"qwen2.5-vl-{i:02d}{seed:02d}" for i in range(len(sizes))]
    first = 1
    for place, (name, trials) in enumerate(zip(names, sizes, strict=True)):
        limit = float(random.choice([500, 650, 800, 1000]))
        last = place == len(sizes) - 1
        made = _Made(random, place + 1, first, limit, params, outcomes)
        made.put(Study, _study(place, name, limit, trials, seed, "running" if last else "finished"))
        made.put(Environment, {"id": place + 1, "study_id": place + 1, "json": MADE_WITH, "created": START})
        made.begin()
        for label in REFERENCES:
            made.add("reference", None, label)
        for number in range(trials):
            made.add("trial", number, None)
            if number + 1 == trials and last and trials > 1:
                made.interrupt()
            if (number + 1) % PORTION == 0 or number + 1 == trials:
                _write(store, made.rows)
                written(name, made.trials)
                made.rows, made.trials = {}, []
        first = made.next
    with store._write() as connection:
        engine.count_on(connection, (Study, Trial, Example, Environment))
    store.close()
    return names


def _write(store: Store, rows: dict[type[Base], list[dict[str, Any]]]) -> None:
    order = [table.name for table in Base.metadata.sorted_tables]
    with store._write() as connection:
        for table in sorted((t for t in rows if rows[t]), key=lambda t: order.index(t.__tablename__)):
            statement = engine.upsert(connection.dialect.name, table.__table__)
            connection.execute(statement.on_conflict_do_nothing(), rows[table])


def _study(place: int, name: str, limit: float, trials: int, seed: int, state: str) -> dict[str, Any]:
    spec = {"model": "qwen2.5-vl", "max_tflops": limit, "flops_convention": "literature", "trials": trials}
    return {
        "id": place + 1,
        "name": name,
        "fingerprint": f"{place:016x}",
        "state": state,
        "spec": {**spec, "workload": {"name": "vqa"}, "examples": EXAMPLES, "seed": seed},
        "model": MODEL.model_dump(),
        "evaluated_on": ON,
        "created": START + timedelta(days=place),
    }


class _Made:
    """The rows of one study."""

    def __init__(
        self,
        random: np.random.Generator,
        study: int,
        first: int,
        limit: float,
        params: Callable[[np.random.Generator], dict[str, Any]] | None,
        outcomes: int,
    ) -> None:
        self.random, self.study, self.next, self.limit = random, study, first, limit
        self.params, self.outcomes = params, outcomes
        self.rows: dict[type[Base], list[dict[str, Any]]] = {}
        self.trials: list[Made] = []

    def begin(self) -> None:
        for split, n in (("held-out", HELD_OUT), ("search", self.outcomes)):
            self.put(
                Example,
                *(
                    {
                        "id": self.example(split, i),
                        "study_id": self.study,
                        "split": split,
                        "name": f"{self.study}-{i}",
                        "image": f"image-{i // 2}",
                        "question_group": GROUPS[i % len(GROUPS)],
                    }
                    for i in range(n)
                ),
            )

    def example(self, split: str, i: int) -> int:
        return self.study * 10_000 + i + (5_000 if split == "search" else 0)

    def put(self, table: type[Base], *rows: dict[str, Any]) -> None:
        self.rows.setdefault(table, []).extend(rows)

    def add(self, role: str, number: int | None, label: str | None) -> None:
        policy = self.policy(label)
        document, header = split_policy(policy)
        at, self.next = self.next, self.next + 1
        when = START + timedelta(days=self.study, seconds=3 * at)
        keep = np.mean([s.keep for s in policy.stages]) if policy.stages else 1.0
        costs = _costs(policy, float(keep))
        over = costs["tflops_literature"] - self.limit
        params = self.params(self.random) if self.params is not None and number is not None else None
        self.put(PolicyDocument, {"id": policy.id, "json": document})
        self.put(
            Trial,
            {
                "id": at,
                "study_id": self.study,
                "role": role,
                "key": f"{label or number}",
                "number": number,
                "label": label,
                "policy_id": policy.id,
                "header": header,
                "params": params,
                "state": "complete",
                "violations": {"tflops_literature": over},
                "reason": None,
                "seconds": 2.5,
                "created": when,
                "finished": when + timedelta(seconds=2),
                "environment_id": self.study,
            },
        )
        self.put(Cost, {"trial_id": at, "json": costs})
        stages = policy.stages
        self.put(
            Trace,
            *(
                {"trial_id": at, "stage": i, "asked": TOKENS * s.keep, "kept": TOKENS * s.keep}
                for i, s in enumerate(stages)
            ),
        )
        truth = 0.25 + 0.72 * keep**0.12 - 0.02 * len(stages) - 0.08 * self.random.random()
        splits = ["search", "selection", "held-out"] if at % 25 == 0 or label else ["search"]
        qualities = [self.measured(at, split, float(truth)) for split in splits]
        if number is not None:
            told, cost = {"tflops_literature": over}, costs["tflops_exact"]
            self.trials.append(Made(number, "complete", params or {}, qualities[0], cost, told))

    def policy(self, label: str | None) -> Policy:
        if label == "uncompressed":
            return Policy(model=MODEL)
        keep = float(self.random.uniform(0.04, 0.6))
        stages = [Stage(site="projector", reducer=str(self.random.choice(BEHIND)), keep=round(keep, 6))]
        if self.random.random() < 0.6:
            layer = int(self.random.integers(2, 24))
            less = round(keep * float(self.random.uniform(0.1, 0.9)), 6)
            stages.append(
                Stage(site="decoder", layer=layer, reducer=str(self.random.choice(INSIDE)), keep=less)
            )
        return Policy(model=MODEL, stages=tuple(stages))

    def measured(self, trial: int, split: str, truth: float) -> float:
        quality = float(np.clip(truth + self.random.normal(0, 0.012), 0, 1))
        units = {"grounded": "share of the image's gain", "agreement": "agreement", "kl": "nats"}
        values = {
            "quality": quality,
            "worst_group": quality - 0.1,
            "grounded": quality - 0.05,
            "agreement": min(1.0, quality + 0.02),
            "kl": 2 * (1 - quality),
            "next_question": quality - 0.03,
            "worst_group_drop": 0.93 - quality,
        }
        self.put(
            Metric,
            *(
                {
                    "trial_id": trial,
                    "name": name,
                    "split": split,
                    "kind": "measured",
                    "measured_on": ON,
                    "value": value,
                    "unit": units.get(name, "accuracy"),
                    "stderr": 0.015,
                    "n": EXAMPLES,
                }
                for name, value in values.items()
            ),
        )
        n = {"held-out": HELD_OUT, "search": self.outcomes}.get(split, 0)
        right = self.random.random(n) < quality
        self.put(
            Outcome,
            *(
                {
                    "trial_id": trial,
                    "example_id": self.example(split, i),
                    "correct": float(right[i]),
                    "agreement": float(right[i]),
                    "kl": 0.1,
                    "next_correct": float(right[i]),
                    "blind": 0.0,
                    "full": float(i % 20 > 0),
                    "answer": str(i),
                }
                for i in range(n)
            ),
        )
        return quality

    def interrupt(self) -> None:
        """Let the last trial run and the one before it have failed."""
        failed, running = self.rows[Trial][-2:]
        failed |= {"state": "failed", "reason": "out of memory: 23.4 GiB needed, 16.0 GiB free"}
        running |= {"state": "running", "finished": None, "seconds": None, "environment_id": None}
        gone = {failed["id"], running["id"]}
        self.trials[-1] = replace(self.trials[-1], state="running")
        for table in (Metric, Cost, Trace, Outcome):
            self.rows[table] = [row for row in self.rows[table] if row["trial_id"] not in gone]
        now = datetime.now(UTC)
        self.put(
            Lease,
            {
                "trial_id": running["id"],
                "worker": "node-1:4711:1a2b3c4d",
                "taken": now - timedelta(seconds=8),
                "expires": now + timedelta(seconds=18),
            },
        )


def _costs(policy: Policy, keep: float) -> dict[str, Any]:
    cut = {s.layer or 0: s.keep for s in policy.stages}
    alive, share = [], 1.0
    for layer in range(MODEL.decoder_layers):
        share = cut.get(layer, share)
        alive.append(share * TOKENS)
    mean = float(np.mean(alive))
    parts = {
        "tower": 1170.0,
        "projector": 25.0,
        "prefill": 1000.0 + 13.0 * mean,
        "decode": 230.0,
        "lm_head": 17.4,
        "reducers": 0.5 * len(policy.stages),
    }
    return {
        "tflops_literature": 6.64 * mean,
        "tflops_exact": sum(parts.values()),
        "memory_gib": 15.5 + 0.002 * mean,
        "kv_bytes": 57344.0 * (mean + 80),
        "kv_bytes_by_layer": [2048.0 * (n + 80) for n in alive],
        "visual_tokens": mean,
        "entering_tokens": alive[0],
        "final_tokens": alive[-1],
        "latency_ms": 60 + 0.02 * mean,
        "parts": parts,
        "latency_parts_ms": {name: value / 100 for name, value in parts.items()},
        "hardware": "NVIDIA H100 SXM (data sheet)",
    }
