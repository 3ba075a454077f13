"""The methods that the published tables name, as policies of ours at the published budgets, or why there is none.

A budget is counted as the tables count it, by the decoder's visual tokens averaged over its layers (the `literature`
convention): a method that cuts before the language model keeps that share, one that cuts inside keeps fewer behind its
first cut. Depths are the published ones, mapped to the proxy's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from autotc.anatomy import Anatomy
from autotc.calibration.published import BUDGETS
from autotc.cost import estimate, estimate_tokens, placed_preset
from autotc.policy import ModelRef, Policy, Stage
from autotc.reducer import Preset, PresetStage, reducers
from autotc.workload import Workload

SEEDS = 5  # of random tokens
SIZE = 168  # pixels, the side of the scenes that the proxies know


@dataclass(frozen=True)
class Method:
    """One name of the tables.

    Args:
        name: as `published.Entry.method`.
        reducer: ours.
        presets: names of its recipes by budget, from the mildest; one name stands for all.
        how: in a few words, where it is not the recipe as it stands.
    """

    name: str
    reducer: str
    presets: tuple[str, ...] = ()
    how: str = ""


METHODS = (
    Method("random", "random", ("random",), f"before the language model, mean of {SEEDS} draws"),
    Method("random inside", "random", how="one cut at decoder layer 2, where FastV cuts"),
    Method("downsample", "downsample", how="the square grid nearest to the budget"),
    Method("ToMe", "tome", ("tome-quarters",), "merged at the quarters of the tower, which has few blocks"),
    Method("FastV", "fastv", ("fastv",)),
    Method("PruMerge", "prumerge", ("prumerge",), "as many outliers as the budget, not as many as there are"),
    Method("PruMerge+", "prumerge", ("prumerge-plus",), "its own count, with the budget as the cap"),
    Method("VTW", "withdraw", ("vtw",), "the deepest withdrawal that the budget allows"),
    Method("SparseVLM", "sparsevlm", ("sparsevlm", "sparsevlm-128", "sparsevlm-64"), "version 1.5"),
    Method("PyramidDrop", "pyramiddrop", ("pyramiddrop",), "depths halved until the budget allows them"),
    Method("MustDrop", "mustdrop", ("mustdrop", "mustdrop-128", "mustdrop-64")),
    Method("VisionZip", "visionzip", ("visionzip",)),
    Method("VisPruner", "vispruner", ("vispruner",)),
    Method("GPrune", "gprune", ("gprune",)),
    Method("DART", "dart", ("dart",)),
    Method("DivPrune", "divprune", ("divprune",)),
    Method("VScan", "vscan", ("vscan",), "its stage before the language model alone"),
    Method("HoloV", "holov", ("holov",)),
)
UNMAPPED = {
    "pooling": "no reducer averages the cells of a fixed grid behind the tower",
    "Window FastV": "a variant by that paper's authors, no reducer",
    "VisionZip+RESTORE": "a correction on top of a method, no reducer",
    "DivPrune+RESTORE": "a correction on top of a method, no reducer",
    "VisPruner+RESTORE": "a correction on top of a method, no reducer",
    "HoloV+RESTORE": "a correction on top of a method, no reducer",
    "Uniform Foveated Compression": "a trained merger",
    "Random cell (K=1)": "one native cell on top of a trained merger",
    "Fixed cell (K=1)": "one native cell on top of a trained merger",
    "Foveated Selector (K=1)": "a trained selector",
    "Query relevance (global)": "an ablation by that paper's authors, no reducer",
    "Query x visual saliency (global)": "an ablation by that paper's authors, no reducer",
    "MSDG-Prune": "no reducer",
    "PruneSID": "no reducer",
    "FastV-after-encoder": "printed at 50 % only, outside the budgets",
}
BASELINES = ("random", "random inside", "downsample", "pooling")


@dataclass(frozen=True)
class Planned:
    """One policy to run: a method at a budget, for the full model; `seed` tells draws of random tokens apart."""

    method: str
    budget: float
    seed: int
    policy: Policy


def published_on(name: str) -> str:
    """Return year and month of a method's first version, as its arXiv number has them; "" for a baseline."""
    found = next((m for m in METHODS if m.name == name), None)
    if found is None or name in BASELINES:
        return ""
    arxiv = reducers.get(found.reducer).source.arxiv
    return arxiv[:4] if arxiv else ""


def plan(full: Anatomy, evaluated: Anatomy, workload: Workload) -> tuple[list[Planned], list[str]]:
    """Return the policies to run and a line for each method and budget that has none.

    Args:
        full: the model whose layers and counts the published settings are for.
        evaluated: the proxy; depths must exist in both.
        workload: whose images the counts are of.
    """
    request = workload.requests[0]
    tokens = full.visual_tokens(request.width, request.height)
    planned, missing = [], []
    for budget in BUDGETS:
        limit = estimate_tokens(full, workload, round(budget * tokens)).tflops_literature
        for method in METHODS:
            found = _place(method, budget, full, evaluated, workload, limit)
            if found is None:
                missing.append(
                    f"{method.name} at {round(budget * tokens)} tokens: its stages cannot be placed"
                )
                continue
            for seed in range(SEEDS if method.reducer == "random" else 1):
                policy = _with_seed(found, seed) if seed else found
                planned.append(Planned(method.name, budget, seed, policy))
    return planned, missing


def _place(
    method: Method, budget: float, full: Anatomy, evaluated: Anatomy, workload: Workload, limit: float
) -> Policy | None:
    """Return the method at a budget, or None."""
    from autotc.apply import check

    cls = reducers.get(method.reducer)
    if method.name == "downsample":
        return _smaller(budget, full, evaluated)
    if method.name == "random inside":
        recipe = Preset("inside", lambda anatomy: (PresetStage("decoder", 0.5, (2, anatomy.decoder.layers)),))
    else:
        name = method.presets[min(BUDGETS.index(budget), len(method.presets) - 1)]
        recipe = next(p for p in cls.presets if p.name == name)
    if cls.withdraws:
        policy = _deepest(recipe, cls.name, full, evaluated, workload, limit)
    else:
        policy = None
        for halvings in range(4):
            policy = placed_preset(
                cls, _earlier(recipe, 2**halvings), full, evaluated, workload, limit, "literature"
            )
            if policy is not None:
                break
    if policy is None:
        return None
    if method.name == "PruMerge":
        stage = policy.stages[0].model_copy(update={"params": {"outliers": False, "ratio": round(budget, 6)}})
        policy = policy.model_copy(update={"stages": (stage,)})
    check(policy, full)
    check(policy.for_model(evaluated), evaluated)
    return policy


def _smaller(budget: float, full: Anatomy, evaluated: Anatomy) -> Policy:
    """Return smaller images: the proxy's grids are coarse, so the nearest square one stands for the budget."""
    side = round(math.sqrt(evaluated.visual_tokens(SIZE, SIZE)))
    smaller = min(range(1, side), key=lambda s: abs(math.log(s * s / side**2 / budget)))
    stage = Stage(site="input", reducer="downsample", keep=round(smaller**2 / side**2, 6))
    return Policy(model=_named(full), stages=(stage,))


def _named(anatomy: Anatomy) -> ModelRef:
    return ModelRef(
        family=anatomy.family,
        id=anatomy.id,
        decoder_layers=anatomy.decoder.layers,
        vision_blocks=anatomy.vision.blocks,
    )


def _earlier(recipe: Preset, factor: int) -> Preset:
    """Return the recipe with the decoder depths divided by a factor."""
    if factor == 1:
        return recipe

    def stages(anatomy: Anatomy) -> tuple[PresetStage, ...]:
        return tuple(
            stage
            if stage.layer is None or stage.site != "decoder"
            else PresetStage(
                stage.site,
                stage.keep,
                (max(1, stage.layer[0] // factor), stage.layer[1]),
                stage.params,
                stage.reducer,
            )
            for stage in recipe.stages(anatomy)
        )

    return Preset(recipe.name, stages, recipe.positions, recipe.note)


def _deepest(
    recipe: Preset, reducer: str, full: Anatomy, evaluated: Anatomy, workload: Workload, limit: float
) -> Policy | None:
    """Return the withdrawal at the last of the proxy's layers that the budget allows."""
    for layer in range(evaluated.decoder.layers - 1, 0, -1):
        stage = Stage(site="decoder", layer=layer, reducer=reducer, keep=0.0)
        policy = Policy(model=_named(evaluated), stages=(stage,)).for_model(full)
        if estimate(policy, full, workload).tflops_literature <= limit:
            return policy
    return None


def _with_seed(policy: Policy, seed: int) -> Policy:
    stages = tuple(s.model_copy(update={"params": {**s.params, "seed": seed}}) for s in policy.stages)
    return policy.model_copy(update={"stages": stages})
