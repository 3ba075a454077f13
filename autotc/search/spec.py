"""What the user asked for, checked before anything runs or is written."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from autotc.constraints import Constraint, parse_constraints
from autotc.deploy import Deploy, check_reducers
from autotc.device.gauge import MEASURED
from autotc.errors import SpecError
from autotc.metrics import OBJECTIVES, Metric, parse_objectives
from autotc.reducer import reducers as registry
from autotc.registry import nearest
from autotc.search.objectives import limits
from autotc.workload import Workload, parse_workload

Executor = Literal["process", "ray"]
Sampler = Literal["tpe", "nsga2", "gp", "random"]
RIVALS = ("random", "sobol", "tpe", "tpe-even", "nsga2", "gp")
PUBLISHED = ("evolution", "p-sigmoid", "greedy", "fitprune", "vtw", "vflowopt")
Strategy = Literal[
    "default",
    "plain",
    "random",
    "sobol",
    "tpe",
    "tpe-even",
    "nsga2",
    "gp",
    "evolution",
    "p-sigmoid",
    "greedy",
    "fitprune",
    "vtw",
    "vflowopt",
]

# What a run may change without making it another study: limits, how long it goes on, and where it is kept.
RUN_ONLY = frozenset(
    {
        "max_tflops",
        "flops_convention",
        "max_memory_gib",
        "constraints",
        "trials",
        "until",
        "timeout",
        "study",
        "storage",
        "workers",
        "executor",
        "device",
        "measure",
        "download",
    }
)
# Options that came later: studies stored without them had these.
_BEFORE = {"deploy": "hf", "objectives": []}
_MEANS_NOTHING = RUN_ONLY | {"asked_workload"}  # the workload itself is compared, not how it was worded
PROXY_TIMEOUT_S = 270.0
MOST_TRIALS = 500  # of a search that goes on until it has reached a plateau, where no other number is given


class SearchSpec(BaseModel):
    """One search as asked on the command line or in a TOML file.

    `strategy` "default" starts from the published presets as points of the space, stops evaluations that are clearly
    dominated, and proposes by expected growth of the front, or as a sampler does at evenly spread budgets where one is
    named; "plain" is the sampler alone, every trial on all examples. The
    others are for comparison (`autotc.search.strategies`): `RIVALS` start and stop like the default, `PUBLISHED` are
    searches of the literature, every trial on all examples.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = Field(min_length=1)
    max_tflops: float | None = Field(default=None, gt=0)
    flops_convention: Literal["literature", "exact"] = "literature"
    max_memory_gib: float | None = Field(default=None, gt=0)
    objectives: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    workload: str | None = None
    data: str | None = None
    skip_bad: bool = False
    examples: int = Field(default=256, ge=16)
    selection_examples: int = Field(default=256, ge=16)
    heldout_examples: int = Field(default=512, ge=16)
    trials: int = Field(default=60, ge=1)
    until: Literal["trials", "plateau"] = "trials"
    timeout: float | None = Field(default=None, gt=0)
    sampler: Sampler | None = None
    strategy: Strategy = "default"
    all_presets: bool = False
    reducers: tuple[str, ...] | None = None
    deploy: Deploy = "hf"
    study: str | None = None
    storage: str | None = None
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    evaluate_on: Literal["auto", "full", "proxy"] = "auto"
    workers: int = Field(default=1, ge=1, le=64)
    executor: Executor = "process"
    device: str = "auto"
    measure: bool = False
    download: bool = False

    @field_validator("workload")
    @classmethod
    def _workload_is_known(cls, text: str | None) -> str | None:
        if text is not None:
            parse_workload(text)
        return text

    @model_validator(mode="after")
    def _strategy_goes_with_the_rest(self) -> SearchSpec:
        if not self.compared:
            return self
        if "sampler" in self.model_fields_set:
            raise SpecError(
                f"--sampler: --strategy {self.strategy} brings its own way to propose; leave one of the two out"
            )
        if self.workers > 1:
            raise SpecError(
                f"--workers: {self.workers}, but --strategy {self.strategy} decides by the trial before; use 1, or the "
                "strategy 'default' or 'plain'"
            )
        return self

    @property
    def compared(self) -> bool:
        """Whether the strategy is one of those to compare with."""
        return self.strategy not in ("default", "plain")

    @property
    def sampled(self) -> bool:
        """Whether a sampler proposes, not a strategy."""
        return self.strategy == "plain" or (self.strategy == "default" and self.sampler is not None)

    @property
    def from_presets(self) -> bool:
        """Whether the strategy is given presets as its first points, and has losers stopped early."""
        return self.strategy == "default" or self.strategy in RIVALS

    @field_validator("objectives")
    @classmethod
    def _objectives_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        found = parse_objectives(names)
        return () if found == OBJECTIVES else tuple(m.name for m in found)

    @field_validator("reducers")
    @classmethod
    def _reducers_are_known(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None:
            if not names:
                raise ValueError("is empty; leave it out to search over all reducers")
            for i, name in enumerate(names):
                if name not in registry.names():
                    raise SpecError(
                        f"reducers[{i}]: unknown reducer {name!r}. {nearest(name, registry.names())} "
                        "See: autotc list reducers"
                    )
        return names

    @model_validator(mode="after")
    def _engine_runs_the_reducers(self) -> SearchSpec:
        check_reducers(self.deploy, self.reducers or ())
        return self

    @classmethod
    def from_options(cls, options: dict[str, Any], source: str | None = None) -> SearchSpec:
        """Build a spec from option values (None: not given).

        Args:
            options: by field name.
            source: a file the values come from, named in messages; None for the command line.

        Raises:
            SpecError: an unknown option or a value out of range; the message says what is allowed.
        """
        given = {name: value for name, value in options.items() if value is not None}
        if given.get("until") == "plateau":
            given.setdefault("trials", MOST_TRIALS)
        try:
            spec = cls.model_validate(given)
            spec.all_constraints()
            return spec
        except SpecError as error:
            raise SpecError(f"{source}: {error}" if source else str(error)) from None
        except ValidationError as error:
            raise SpecError(_explain(error, source)) from None

    @classmethod
    def from_toml(cls, path: str | Path, **overrides: Any) -> SearchSpec:
        """Read a spec file, such as `studies/<study>/spec.toml`; overrides that are not None win.

        Raises:
            SpecError: unreadable, not TOML, or a wrong value; the message names the file and the key.
        """
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise SpecError(f"{path}: cannot be read: {error.strerror or error}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SpecError(f"{path}: not a TOML file: {error}") from error
        return cls.from_options({**data, **{k: v for k, v in overrides.items() if v is not None}}, str(path))

    def all_objectives(self) -> tuple[Metric, ...]:
        """Return what the search aims at."""
        return parse_objectives(self.objectives)

    def all_constraints(self) -> tuple[Constraint, ...]:
        """Return the limits set by options of their own, and the constraints given as strings.

        Raises:
            SpecError: a constraint that cannot be read, or two that contradict one another.
        """
        own = limits(self.max_tflops, self.flops_convention, self.max_memory_gib)
        return (*own, *parse_constraints(self.constraints, own))

    def estimated_limits(self) -> tuple[Constraint, ...]:
        """Return the limits that are met or broken before anything runs, the options' own and those on costs."""
        measured = MEASURED if self.measure else ()
        return tuple(c for c in self.all_constraints() if c.on_cost and c.name not in measured)

    def parsed_workload(self) -> Workload:
        """Return the workload named by `--workload`, by default the `vqa` profile."""
        return parse_workload(self.workload or "vqa")

    def document(self, workload: Workload, data: str = "") -> dict[str, Any]:
        """Return what a store keeps of a search: every option, the workload, the data's fingerprint."""
        options = self.model_dump(mode="json", exclude={"storage"})
        worded = {"asked_workload": self.workload, "workload": workload.as_dict()}
        return {**options, **worded, "data_fingerprint": data}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> SearchSpec:
        """Return the spec that a stored document was made of.

        Raises:
            SpecError: an option that this autotc does not know, or a document that does not say which workload
                was asked for.
        """
        if "asked_workload" not in document:
            raise SpecError(
                "the study was started by an earlier autotc; go on with the same command as before"
            )
        options = {name: document[name] for name in cls.model_fields if name in document}
        return cls.from_options({**options, "workload": document["asked_workload"]})

    def study_name(self, fingerprint: str) -> str:
        """Return `--study`, or the model's name and the fingerprint's first eight digits."""
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(self.model).name.lower()).strip("-.") or "model"
        return self.study or f"{stem}-{fingerprint[:8]}"


def fingerprint(document: dict[str, Any]) -> str:
    """Return 16 hex digits over everything in a search's document that decides what a trial means.

    Limits, number of trials, timeout, workers and the study's own name are left out: a study may go on with
    others.
    """
    identity = {
        k: v
        for k, v in document.items()
        if k not in _MEANS_NOTHING and not (k in _BEFORE and v == _BEFORE[k])
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def differences(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return one line for each option by which two searches' documents mean different trials."""
    stored, now = {**_BEFORE, **stored}, {**_BEFORE, **now}
    return [
        f"{'the data' if k == 'data_fingerprint' else k} was {stored.get(k)!r}, now {now.get(k)!r}"
        for k in sorted(stored.keys() | now.keys())
        if k not in _MEANS_NOTHING and stored.get(k) != now.get(k)
    ]


def _explain(error: ValidationError, source: str | None) -> str:
    lines = []
    for item in error.errors():
        path = "".join(f"[{p}]" if isinstance(p, int) else str(p) for p in item["loc"])
        shown = path if source else f"--{path.replace('_', '-')}"
        field = str(item["loc"][0]) if item["loc"] else ""
        if item["type"] == "extra_forbidden":
            lines.append(f"{shown}: unknown option. {nearest(field, SearchSpec.model_fields)}")
            continue
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "literal_error":
            kind = SearchSpec.model_fields[field].annotation
            choices = [str(c) for a in (kind, *get_args(kind)) for c in get_args(a) if isinstance(c, str)]
            message = f"{item['input']!r} is not known. {nearest(str(item['input']), choices)}"
        elif isinstance(item.get("input"), str | int | float):
            message = f"{item['input']!r}: {message[:1].lower()}{message[1:]}"
        lines.append(f"{shown}: {message}")
    return (f"{source}: " if source else "") + "; ".join(lines)
