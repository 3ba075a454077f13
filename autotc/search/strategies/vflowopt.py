"""VFlowOpt: Bayesian optimisation of one recipe's ratios and knobs, the last ratio solved from the budget.

Source: VFlowOpt, arXiv 2508.05211: behind the projector by r_v, then by r_1 and r_2 at 9 and 18 of 28 layers; 27 random
settings first, a Gaussian process after that.
Differs: score on examples in the place of the cosine of hidden states; TPE in the place of skopt's process (a
proposal takes milliseconds); budgets are spread over those of the study in the place of one target; the weight of
the pixels' entropy, 0 in all settings that were found, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution

from autotc.cost import solve_keep
from autotc.errors import SpecError
from autotc.policy import Policy, Stage
from autotc.search.space import Space
from autotc.search.strategies.drawn import Drawn
from autotc.search.strategies.spread import budget_place

NAME = "vflowopt"
DEPTHS = (9 / 28, 18 / 28)  # of the language model
UNIT = FloatDistribution(0.0, 1.0)


class _Recipes:
    """Where between the least and the most the first two ratios lie, and the two knobs."""

    distributions: Mapping[str, BaseDistribution]

    def __init__(self, space: Space) -> None:
        self.space = space
        if any(NAME not in space.choices[site] for site in ("projector", "decoder")):
            raise SpecError(
                f"--strategy {NAME}: it searches the settings of the reducer {NAME!r}, which this search leaves out. "
                "Allow it, or choose another strategy"
            )
        depth = space.full.decoder.layers
        nearest = (min(space.depths["decoder"], key=lambda k: abs(k - part * depth)) for part in DEPTHS)
        self.layers = tuple(dict.fromkeys(nearest))
        self.distributions = {
            "vflowopt_budget": FloatDistribution(space.low, space.high, log=True),
            **{f"vflowopt_share_{i}": UNIT for i in range(len(self.layers))},
            "vflowopt_threshold": FloatDistribution(0.0, 50.0),
            "vflowopt_cell": FloatDistribution(3.0, 24.0),
        }

    def decode(self, params: Mapping[str, Any]) -> Policy:
        """Return the recipe that costs at most its budget: each ratio takes its share of what is possible."""
        space, budget = self.space, float(params["vflowopt_budget"])
        knobs = {
            "threshold": round(params["vflowopt_threshold"], 2),
            "cell": round(params["vflowopt_cell"], 2),
        }
        least = space.whole(0.0)
        places: list[tuple[str, int | None]] = [("projector", None), *(("decoder", k) for k in self.layers)]
        keeps = [least] * len(places)

        def policy(count: int) -> Policy:
            stages = tuple(
                Stage(
                    site=site,  # type: ignore[arg-type]
                    layer=layer,
                    reducer=NAME,
                    keep=keep,
                    params=knobs if site == "projector" else {**knobs, "recycle": False},
                )
                for (site, layer), keep in zip(places[:count], keeps, strict=False)
            )
            return Policy(model=space.model, stages=stages)

        def solved(count: int, i: int) -> float:
            keep = solve_keep(policy(count), i, space.full, space.workload, budget, space.convention)
            return least if keep is None else keep

        for i in range(len(places) - 1):
            low, high = solved(i + 1, i), solved(len(places), i)
            share = float(params[f"vflowopt_share_{i}"])
            keeps[i] = space.whole(min(low, high) + share * abs(high - low))
            for j in range(i + 1, len(places)):
                keeps[j] = min(least, keeps[i])
        keeps[-1] = solved(len(places), len(places) - 1)
        falling = [0, *(i for i in range(1, len(places)) if keeps[i] < keeps[i - 1])]
        whole = policy(len(places))
        return whole.model_copy(update={"stages": tuple(whole.stages[i] for i in falling)})


def make(space: Space, seed: int) -> Drawn:
    """Return the strategy."""
    recipes = _Recipes(space)

    def given(number: int) -> dict[str, Any]:
        return {"vflowopt_budget": space.low * (space.high / space.low) ** budget_place(seed, number)}

    return Drawn(recipes, seed, "tpe", given, recipes.decode)
