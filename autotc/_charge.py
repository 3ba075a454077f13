"""What a policy is charged on a model: which stages run, what a reducer's own work takes, and the totals."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from autotc._flops import (
    ANY,
    PARTS,
    Charge,
    Cut,
    Schedule,
    attention_pairs,
    exact_flops,
    literature_flops,
    make_schedule,
)
from autotc.anatomy import Anatomy, block_at
from autotc.errors import PolicyError, SpecError, UnsupportedError
from autotc.policy import Policy, Stage
from autotc.workload import Request, Workload

if TYPE_CHECKING:
    from autotc.reducer import Reducer

GIGA = 1e9  # FLOPs of one request -> TFLOP of 1,000 requests


def stages_of(policy: Policy | None, anatomy: Anatomy) -> tuple[Stage, ...]:
    """Return the stages of a policy, which must be written for this model.

    Raises:
        PolicyError: another family or depth.
    """
    if policy is None:
        return ()
    asked = (policy.model.family, policy.model.decoder_layers, policy.model.vision_blocks)
    found = (anatomy.family, anatomy.decoder.layers, anatomy.vision.blocks)
    if asked != found:
        names = ("family", "decoder_layers", "vision_blocks")
        wrong = next(i for i in range(3) if asked[i] != found[i])
        hint = "" if wrong == 0 else "; translate it with policy.for_model(anatomy)"
        raise PolicyError(
            f"model.{names[wrong]}: the policy is for {asked[wrong]!r}, the model has {found[wrong]!r}{hint}"
        )
    return policy.stages


def total_tflops(
    stages: Sequence[Stage],
    anatomy: Anatomy,
    workload: Workload,
    convention: str,
    charge: Charge,
) -> float:
    """Return only the TFLOP per 1,000 requests, added up as `estimate` does so that both agree to the bit."""
    literature, parts = 0.0, dict.fromkeys(PARTS, 0.0)
    exact = checked(convention) == "exact"
    for request, weight in zip(workload.requests, workload.weights, strict=True):
        plan = plan_of(stages, anatomy, request, None)
        if exact:
            flops = exact_flops(anatomy, request, plan, charge)
            for part in PARTS:
                parts[part] += weight * flops[part] / GIGA
        else:
            seen = [request.images * n for n in plan.decoder]
            literature += weight * literature_flops(anatomy, seen) / GIGA
    return sum(parts.values()) if exact else literature


def plan_of(
    stages: Sequence[Stage], anatomy: Anatomy, request: Request, kept: Sequence[float] | None
) -> Schedule:
    if request.frames != 1:
        raise UnsupportedError("workload: frames: videos are not supported yet; leave frames out")
    views = anatomy.image.views(request.width, request.height, request.images)
    return make_schedule(stages, anatomy, views, kept, cuts_inside)


def cuts_inside(stage: Stage) -> bool:
    return stage.reducer != ANY and _reducer(stage.reducer).where == "after_attention"


def free(cut: Cut, plan: Schedule, text: int) -> float:
    return 0.0


def reducer_work(anatomy: Anatomy) -> Charge:
    """Return what prices a cut on one image: the reducer's own work, and a tower map made only for it."""
    v, d = anatomy.vision, anatomy.decoder

    def charge(cut: Cut, plan: Schedule, text: int) -> float:
        if cut.k >= cut.n:  # a stage that keeps everything does not run
            return 0.0
        from autotc.reducer import Shape  # imports torch, which a cost without stages does not need

        stage = cut.stage
        decoder = stage.site == "decoder"
        heads, head_dim = (d.heads, d.head_dim) if decoder else (v.heads, v.width // v.heads)
        kv_heads = d.kv_heads if decoder else heads
        width = v.width if stage.site in ("input", "vision") else d.width
        reducer = _reducer(stage.reducer, tuple(sorted(stage.params.items())))
        n, k = map(max, zip(*cut.rows, strict=True))  # rows of one image are padded to the longest
        own = len(cut.rows) * reducer.flops(Shape(n, k, width, heads, head_dim, text, kv_heads))
        for place in _maps(stage.reducer, v.prefix > 0):
            if place == "block":
                block = (stage.layer or 0) - (not cuts_inside(stage))
            else:
                block = block_at(place, v.blocks, v.blocks_used, v.prefix > 0)
            own += 2.0 * plan.tiles * attention_pairs(anatomy, plan, block) * v.width
        return own

    return charge


@lru_cache(maxsize=1024)
def _reducer(name: str, params: tuple[tuple[str, Any], ...] = ()) -> Reducer:
    from autotc.reducer import make_reducer

    return make_reducer(name, dict(params))


@lru_cache(maxsize=1024)
def _maps(name: str, has_cls: bool) -> tuple[str, ...]:
    """Return of which tower blocks a reducer makes the whole attention map be computed a second time."""
    from autotc._signals import BLOCK, TOWER

    reducer = _reducer(name)
    names = {n if has_cls or "cls" not in n else reducer.instead.get(n, n) for n in reducer.needs}
    behind = {TOWER[n][0] for n in names if n in TOWER and TOWER[n][1] in ("received", "map")}
    inside = any(BLOCK[n] in ("received", "logits") for n in names if n in BLOCK)
    return (*sorted(behind), *(["block"] if inside else []))


def checked(convention: str) -> str:
    if convention not in ("literature", "exact"):
        raise SpecError(f"--flops-convention: {convention!r} is not one of literature, exact")
    return convention
