"""What a policy costs on a model, without running it: FLOPs, cache, memory and predicted latency.

Two counts of FLOPs, both in TFLOP per 1,000 requests of a workload:

* `literature`, what the papers' tables print: the decoder's prefill over visual tokens only, one operation a
  multiply-add. LLaVA-1.5-7B gives 3817.2, 1253.1, 833.2 and 415.5 at 576, 192, 128 and 64 tokens.
* `exact`, what the model executes, two operations a multiply-add: tower, projector, prefill over visual and
  text tokens, decode, output head and the reducers' own work. It is the count of
  `torch.utils.flop_counter.FlopCounterMode` under `sdpa_kernel(SDPBackend.MATH)`.

The formulas stand in `autotc._flops`, what is charged in `autotc._charge`, budgets in `autotc._budget`. Every
count of tokens comes from `schedule`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autotc._budget import (
    Floor,
    floor_cost,
    layer_tflops,
    placed_preset,
    preset_policy,
    scale_policy,
    solve_keep,
)
from autotc._charge import (
    GIGA,
    checked,
    cuts_inside,
    free,
    plan_of,
    reducer_work,
    stages_of,
)
from autotc._flops import (
    ANY,
    PARTS,
    Charge,
    Cut,
    Schedule,
    activation_bytes,
    exact_flops,
    kv_bytes,
    latency_s,
    literature_flops,
    make_schedule,
)
from autotc.anatomy import Anatomy, Views
from autotc.errors import PolicyError, SpecError
from autotc.policy import Policy, Stage
from autotc.workload import H100, Hardware, Workload

__all__ = [
    "Cost",
    "Cut",
    "Floor",
    "Schedule",
    "estimate",
    "estimate_tokens",
    "floor_cost",
    "full_cost",
    "layer_tflops",
    "placed_preset",
    "preset_policy",
    "scale_policy",
    "schedule",
    "solve_keep",
]


@dataclass(frozen=True)
class Cost:
    """The estimated cost of a policy, the mean over the workload's mix where not said otherwise.

    Args:
        tflops_literature, tflops_exact: TFLOP per 1,000 requests, see the module.
        memory_gib: weights, cache and largest activations of one batch of the largest request shape.
        kv_bytes: key-value cache of one request when its last token has been generated.
        kv_bytes_by_layer: the same in each decoder layer.
        visual_tokens: visual tokens of a request that a decoder layer sees, mean over the layers.
        entering_tokens: visual tokens of a request that enter the language model.
        final_tokens: visual tokens of a request that the last decoder layer sees.
        latency_ms: predicted time of one batch from images to last token, on `hardware`.
        parts: the exact count by part (tower, projector, prefill, decode, lm_head, reducers).
        latency_parts_ms: the predicted time by part.
        hardware: name of the device that the latency is predicted for.
    """

    tflops_literature: float
    tflops_exact: float
    memory_gib: float
    kv_bytes: float
    kv_bytes_by_layer: tuple[float, ...]
    visual_tokens: float
    entering_tokens: float
    final_tokens: float
    latency_ms: float
    parts: dict[str, float]
    latency_parts_ms: dict[str, float]
    hardware: str

    def get(self, convention: str) -> float:
        """Return the TFLOP per 1,000 requests by a convention, "literature" or "exact"."""
        return {"literature": self.tflops_literature, "exact": self.tflops_exact}[checked(convention)]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {**asdict(self), "kv_bytes_by_layer": list(self.kv_bytes_by_layer)}


def estimate(
    policy: Policy | None,
    anatomy: Anatomy,
    workload: Workload,
    hardware: Hardware = H100,
    kept: Sequence[float] | None = None,
) -> Cost:
    """Return what a policy costs on a model; None is the uncompressed model.

    Args:
        policy: written for this model's depths (see `Policy.for_model`).
        anatomy: the model.
        workload: the mix of requests.
        hardware: the device the latency is predicted for.
        kept: one number a stage: the fraction of the original tokens really alive after it, as a trace
            recorded; charged where it is below what the policy asks (adaptive reducers).

    Raises:
        PolicyError: the policy is for another family or another depth.
        UnsupportedError: the workload holds videos.
    """
    return _cost(stages_of(policy, anatomy), anatomy, workload, hardware, kept, reducer_work(anatomy))


def estimate_tokens(anatomy: Anatomy, workload: Workload, tokens: int, hardware: Hardware = H100) -> Cost:
    """Return the cost when `tokens` visual tokens of each image enter the language model, whoever chose them.

    The tower sees the whole image and no reducer's work is charged. An image with fewer tokens keeps its own.

    Raises:
        SpecError: `tokens` is not between 1 and the tokens of the workload's largest image.
    """
    most = max(anatomy.visual_tokens(r.width, r.height, r.images) for r in workload.requests)
    if not 1 <= tokens <= most:
        raise SpecError(
            f"--visual-tokens: {tokens} is out of range; images of this workload have 1..{most} visual tokens"
        )
    cut = Stage(site="projector", reducer=ANY, keep=1.0, max_tokens=tokens)
    return _cost((cut,), anatomy, workload, hardware, None, free)


def schedule(
    policy: Policy | None,
    anatomy: Anatomy,
    image: int | tuple[int, int] | Views,
    kept: Sequence[float] | None = None,
) -> Schedule:
    """Return how many visual tokens of one image each vision block, the projector and each decoder layer see.

    Args:
        policy: written for this model's depths; None is the uncompressed model.
        anatomy: the model.
        image: the image's (rows, columns) of visual tokens, or only their number, which is then laid out as
            square as it divides, or its views where it has several (`anatomy.image.views`).
        kept: see `estimate`.
    """
    seen = _squarest(image) if isinstance(image, int) else image
    return make_schedule(stages_of(policy, anatomy), anatomy, seen, kept, cuts_inside)


def full_cost(anatomy: Anatomy, workload: Workload, hardware: Hardware = H100) -> Cost:
    """Return the cost of the uncompressed model."""
    return estimate(None, anatomy, workload, hardware)


def _cost(
    stages: Sequence[Stage],
    anatomy: Anatomy,
    workload: Workload,
    hardware: Hardware,
    kept: Sequence[float] | None,
    charge: Charge,
) -> Cost:
    if kept is not None and len(kept) != len(stages):
        raise PolicyError(f"kept: {len(kept)} numbers for {len(stages)} stages")
    parts, seconds = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0.0)
    cache = [0.0] * anatomy.decoder.layers
    literature = mean = entering = final = peak = 0.0
    for request, weight in zip(workload.requests, workload.weights, strict=True):
        plan = plan_of(stages, anatomy, request, kept)
        seen = [request.images * n for n in plan.decoder]
        flops = exact_flops(anatomy, request, plan, charge)
        taken = latency_s(anatomy, request, plan, flops, hardware, workload.batch)
        for part in PARTS:
            parts[part] += weight * flops[part] / GIGA
            seconds[part] += weight * taken[part]
        held = kv_bytes(anatomy, request, plan.decoder)
        for layer, size in enumerate(held):
            cache[layer] += weight * size
        peak = max(peak, workload.batch * (sum(held) + activation_bytes(anatomy, request, plan)))
        literature += weight * literature_flops(anatomy, seen) / GIGA
        mean += weight * sum(seen) / len(seen)
        entering += weight * seen[0]
        final += weight * seen[-1]
    return Cost(
        tflops_literature=literature,
        tflops_exact=sum(parts.values()),
        memory_gib=(anatomy.parameters * anatomy.bytes_per_parameter + peak) / 2**30,
        kv_bytes=sum(cache),
        kv_bytes_by_layer=tuple(cache),
        visual_tokens=mean,
        entering_tokens=entering,
        final_tokens=final,
        latency_ms=1e3 * sum(seconds.values()),
        parts=parts,
        latency_parts_ms={part: 1e3 * s for part, s in seconds.items()},
        hardware=hardware.name,
    )


def _squarest(tokens: int) -> tuple[int, int]:
    rows = next(r for r in range(math.isqrt(tokens), 0, -1) if tokens % r == 0)
    return rows, tokens // rows
