"""How long the parts of a model take on a device: from a table measured on it, or from a data sheet's roofline."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from autotc._charge import plan_of, reducer_work, stages_of
from autotc._flops import (
    Schedule,
    activation_bytes,
    kv_bytes,
    layer_flops,
    projected_tokens,
    projections,
    projector_flops,
    tower_flops,
)
from autotc.anatomy import Anatomy
from autotc.errors import SpecError
from autotc.policy import Policy
from autotc.workload import Hardware, Request

SCHEMA = "autotc/device/1"


class Timing(Protocol):
    """Times in milliseconds of one model on one device.

    `kind` says whether they rest on measurements of its parts; `watts` are mean board power by phase (idle, prefill,
    decode), empty where unknown.
    """

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Literal["measured", "estimated"]: ...
    @property
    def memory_bytes(self) -> float: ...
    @property
    def watts(self) -> Mapping[str, float]: ...

    def tower_ms(self, plan: Schedule, images: float) -> float: ...
    def layer_ms(self, tokens: float, batch: float) -> float: ...
    def decode_ms(self, batch: float, context: float) -> float: ...
    def head_ms(self, batch: float) -> float: ...
    def choose_ms(self, policy: Policy | None, request: Request, batch: float) -> float: ...
    def resident_bytes(self) -> float: ...
    def working_bytes(self, request: Request, plan: Schedule, batch: float) -> float: ...


@dataclass(frozen=True)
class Roofline:
    """Times from peak rates: what no device exceeds, so an estimate, and a hopeful one."""

    anatomy: Anatomy
    hardware: Hardware
    kind: Literal["measured", "estimated"] = "estimated"

    @property
    def name(self) -> str:
        return self.hardware.name

    @property
    def memory_bytes(self) -> float:
        return self.hardware.memory_bytes

    @property
    def watts(self) -> Mapping[str, float]:
        return {}

    def _ms(self, flops: float, traffic: float) -> float:
        return 1e3 * max(flops / self.hardware.flops_per_s, traffic / self.hardware.bytes_per_s)

    def tower_ms(self, plan: Schedule, images: float) -> float:
        a, v = self.anatomy, self.anatomy.vision
        weights = v.blocks * (4 * v.width**2 + v.mlp_matrices * v.width * v.mlp) * a.bytes_per_parameter
        work = tower_flops(a, plan) + projector_flops(a, projected_tokens(a, plan))
        return self._ms(images * work, weights)

    def _layer_bytes(self) -> float:
        d = self.anatomy.decoder
        return d.width * (projections(self.anatomy) + 3 * d.mlp) * self.anatomy.bytes_per_parameter

    def layer_ms(self, tokens: float, batch: float) -> float:
        return self._ms(batch * layer_flops(self.anatomy, tokens, tokens), self._layer_bytes())

    def decode_ms(self, batch: float, context: float) -> float:
        a, d = self.anatomy, self.anatomy.decoder
        cache = 2 * d.kv_heads * d.head_dim * a.bytes_per_parameter * context * batch
        one = self._ms(batch * layer_flops(a, 1, context), self._layer_bytes() + cache)
        return d.layers * one + self.head_ms(batch)

    def head_ms(self, batch: float) -> float:
        d = self.anatomy.decoder
        return self._ms(2 * batch * d.width * d.vocab, d.width * d.vocab * self.anatomy.bytes_per_parameter)

    def choose_ms(self, policy: Policy | None, request: Request, batch: float) -> float:
        plan = plan_of(stages_of(policy, self.anatomy), self.anatomy, request, None)
        charge = reducer_work(self.anatomy)
        work = request.images * sum(charge(cut, plan, request.prompt_tokens) for cut in plan.cuts)
        return self._ms(batch * work, 0)

    def resident_bytes(self) -> float:
        return self.anatomy.parameters * self.anatomy.bytes_per_parameter

    def working_bytes(self, request: Request, plan: Schedule, batch: float) -> float:
        return batch * activation_bytes(self.anatomy, request, plan)


class Table:
    """Times interpolated between measured points, see `autotc.device.table`.

    Args:
        anatomy: the model that was measured.
        data: what `table.measure` found.

    Raises:
        SpecError: another schema, or a table of another model.
    """

    kind: Literal["measured", "estimated"] = "measured"

    def __init__(self, anatomy: Anatomy, data: Mapping[str, Any]) -> None:
        if data.get("schema") != SCHEMA:
            raise SpecError(f"device table: schema: {data.get('schema')!r} is not {SCHEMA!r}")
        models: Mapping[str, Any] = data["models"]
        if anatomy.id not in models:
            raise SpecError(
                f"device table of {data['gpu']}: no measurements of {anatomy.id}; it holds "
                f"{', '.join(models) or 'none'}. Measure it: autotc bench device --model ..."
            )
        mine = models[anatomy.id]
        self.anatomy, self.name = anatomy, str(data["gpu"])
        self.memory_bytes = float(data["memory_bytes"])
        self.watts: Mapping[str, float] = mine.get("watts") or {}
        self._layer, self._decode = Surface(mine["layer_ms"]), Surface(mine["decode_ms"])
        self._tower, self._head = Surface(mine["tower_ms"]), Surface(mine["head_ms"])
        self._choose: Mapping[str, float] = mine.get("choose_ms") or {}
        self._choose_at: Mapping[str, float] = mine.get("choose_at") or {"tokens": 576, "batch": 8}
        self._flops_per_s = float(data["matmul_flops_per_s"])
        self._memory: Mapping[str, float] = mine["memory"]

    @classmethod
    def read(cls, path: str | Path, anatomy: Anatomy) -> Table:
        """Read a table from a file such as `studies/device/<gpu>.json`."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SpecError(f"{path}: not a device table: {error}") from error
        return cls(anatomy, data)

    def tower_ms(self, plan: Schedule, images: float) -> float:
        """Interpolated over an image's tokens; blocks that see fewer take their share of the time by FLOPs."""
        tile = plan.grid[0] * plan.grid[1]
        every = (tile,) * len(plan.attention)
        whole = replace(plan, attention=every, mlp=every)
        share = tower_flops(self.anatomy, plan) / max(tower_flops(self.anatomy, whole), 1.0)
        return self._tower.at(tile * plan.tiles, images) * share

    def layer_ms(self, tokens: float, batch: float) -> float:
        return self._layer.at(tokens, batch)

    def decode_ms(self, batch: float, context: float) -> float:
        return self._decode.at(context, batch)

    def head_ms(self, batch: float) -> float:
        return self._head.at(1, batch)

    def choose_ms(self, policy: Policy | None, request: Request, batch: float) -> float:
        """The measured time of each reducer, in proportion to tokens and batch; by FLOPs where it was not measured."""
        plan = plan_of(stages_of(policy, self.anatomy), self.anatomy, request, None)
        charge, total = reducer_work(self.anatomy), 0.0
        for cut in plan.cuts:
            if cut.k >= cut.n:
                continue
            if cut.stage.reducer in self._choose:
                size = cut.n * request.images * batch / (self._choose_at["tokens"] * self._choose_at["batch"])
                total += self._choose[cut.stage.reducer] * max(1.0, size)
            else:
                work = request.images * charge(cut, plan, request.prompt_tokens)
                total += 1e3 * batch * work / self._flops_per_s
        return total

    def resident_bytes(self) -> float:
        return self._memory["resident_bytes"]

    def working_bytes(self, request: Request, plan: Schedule, batch: float) -> float:
        return self._memory["activation_factor"] * batch * activation_bytes(self.anatomy, request, plan)


class Surface:
    """Piecewise linear in logarithms over (size, batch): exact at the points, and a power law between them.

    Args:
        points: (size, batch, value) on a full grid. Outside it the slope of the nearest edge goes on.
    """

    def __init__(self, points: Sequence[Sequence[float]]) -> None:
        self._sizes = sorted({p[0] for p in points})
        self._batches = sorted({p[1] for p in points})
        self._values = {(p[0], p[1]): p[2] for p in points}
        if len(self._values) != len(self._sizes) * len(self._batches):
            raise SpecError("device table: a grid of points has holes; measure it again")

    def at(self, size: float, batch: float) -> float:
        """Return the value at a size and a batch."""
        along = [
            _line(self._sizes, [self._values[s, b] for s in self._sizes], max(size, 1e-9))
            for b in self._batches
        ]
        return _line(self._batches, along, max(batch, 1e-9))


def _line(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    if len(xs) == 1:
        return ys[0] * max(1.0, x / xs[0])
    i = min(max(bisect_left(xs, x), 1), len(xs) - 1)
    a, b = math.log(xs[i - 1]), math.log(xs[i])
    slope = (math.log(ys[i]) - math.log(ys[i - 1])) / (b - a)
    if x < xs[0]:
        slope = min(max(slope, 0.0), 1.0)
        return ys[0] * (x / xs[0]) ** slope
    return math.exp(math.log(ys[i - 1]) + slope * (math.log(x) - a))


@dataclass(frozen=True)
class Prediction:
    """What one batch of equal requests is expected to take.

    Args:
        prefill_ms: images to the first token, choosing included.
        decode_ms: a token after it.
        memory_bytes: most at any time: weights and context, cache, working memory.
        choose_ms: the reducers' part of the prefill.
        kind: of the parts it was put together from.
    """

    prefill_ms: float
    decode_ms: float
    memory_bytes: float
    choose_ms: float
    kind: Literal["measured", "estimated"]


def predict(
    timing: Timing, anatomy: Anatomy, policy: Policy | None, request: Request, batch: int
) -> Prediction:
    """Put the parts together for a batch of equal requests."""
    plan = plan_of(stages_of(policy, anatomy), anatomy, request, None)
    seen = [request.images * n + request.prompt_tokens for n in plan.decoder]
    layers = sum(times * timing.layer_ms(n, batch) for n, times in Counter(seen).items())
    choose = timing.choose_ms(policy, request, batch)
    prefill = timing.tower_ms(plan, request.images * batch) + layers + timing.head_ms(batch) + choose
    cache = batch * sum(kv_bytes(anatomy, request, plan.decoder))
    context = sum(seen) / len(seen) + request.new_tokens / 2
    return Prediction(
        prefill_ms=prefill,
        decode_ms=timing.decode_ms(batch, context),
        memory_bytes=timing.resident_bytes() + cache + timing.working_bytes(request, plan, batch),
        choose_ms=choose,
        kind=timing.kind,
    )
