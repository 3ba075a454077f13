"""The space of policies: a fixed set of parameters; each point is a policy within its own sampled budget.

The total cost is a parameter, and the rest says how it is spent: which sites, how deep, with which reducers,
and what share of the possible saving each stage takes. The keeps are solved from the cost model, so nothing
is ever proposed over the limit, and nothing is projected onto it either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotc.adapter import adapters
from autotc.anatomy import Anatomy
from autotc.constraints import Constraint
from autotc.cost import estimate, floor_cost, full_cost, solve_keep
from autotc.deploy import engine_of
from autotc.errors import AutotcError, SpecError
from autotc.policy import LAYERED, ModelRef, Policy, Stage, map_depth
from autotc.reducer import Reducer
from autotc.reducer import reducers as registry
from autotc.search._dimensions import (
    CONTROLS,
    LEAST,
    MAX_STAGES,
    NONE,
    SPAN,
    Slot,
    distributions,
    proposal_depths,
    round_up,
    variant,
)
from autotc.workload import Workload

Check = Callable[[Policy, Anatomy], None]
Pick = Callable[[str, Sequence[Any]], Any]


@dataclass(frozen=True)
class Proposal:
    """A policy for the full model and the sampled budget it stays within."""

    policy: Policy
    budget: float


class Space:
    """Fixed-dimensional parameters to policies and back.

    Args:
        full: the model the costs are for; proposals are written for it.
        evaluated: the model that runs them (a proxy of the same family, or the full one).
        workload: the mix of requests.
        limit: the most a policy may cost, TFLOP per 1,000 requests; None is the uncompressed cost.
        convention: how the limit is counted.
        reducers: names to use; None for all the family supports, controls left out.
        check: raises an AutotcError when a policy does not fit a model; `autotc.apply.check` by default.
        deploy: name of the engine that has to run the policies.
        limits: further ones on costs, which strategies keep to as far as they can.

    Raises:
        SpecError: the limit is below the floor of the space, or no reducer is left.
    """

    def __init__(
        self,
        full: Anatomy,
        evaluated: Anatomy,
        workload: Workload,
        limit: float | None,
        convention: str = "literature",
        reducers: Sequence[str] | None = None,
        check: Check | None = None,
        deploy: str = "hf",
        limits: Sequence[Constraint] = (),
    ) -> None:
        if check is None:
            from autotc import apply

            check = apply.check
        self.full, self.evaluated, self.workload, self.convention = full, evaluated, workload, convention
        self._check: Check = check
        self._engine = engine_of(deploy, full.family)
        self.limits = tuple(limits)
        self.model = ModelRef(
            family=full.family,
            id=full.id,
            decoder_layers=full.decoder.layers,
            vision_blocks=full.vision.blocks,
        )
        self.notes: list[str] = []
        self._costs: dict[tuple[Slot, ...], float] = {}
        blocks, there = full.vision, evaluated.vision
        self.depths = {
            "decoder": proposal_depths(full.decoder.layers, evaluated.decoder.layers),
            # blocks that do not run into the features are not cut
            "vision": tuple(
                j
                for j in proposal_depths(blocks.blocks, there.blocks)
                if j < blocks.blocks_used and map_depth(j, blocks.blocks, there.blocks) < there.blocks_used
            ),
        }
        names = reducers if reducers is not None else [n for n in registry.names() if n not in CONTROLS]
        classes = [registry.get(name) for name in names]
        self.withdrawing = tuple(c.name for c in classes if c.withdraws and self._fits("decoder", c))
        self.choices: dict[str, tuple[str, ...]] = {
            site: tuple(c.name for c in classes if not c.withdraws and self._fits(site, c))
            for site in ("input", "vision", "projector", "decoder")
        }
        if not any(self.choices.values()):
            raise SpecError(
                f"reducers: none of {', '.join(names)} can be used alone on the family {full.family!r}. "
                "See: autotc list reducers"
            )
        places = self._engine.positions(full.family)
        self.positions = tuple(p for p in adapters.get(full.family).positions if p in places) or ("original",)
        self._set_limits(limit)
        self.distributions = distributions(
            (self.low, self.high),
            self.choices,
            {site: min(MAX_STAGES, len(depths)) for site, depths in self.depths.items()},
            self.withdrawing,
            self.positions,
            full,
        )

    # --- limits ---

    def _set_limits(self, limit: float | None) -> None:
        self.ceiling = full_cost(self.full, self.workload).get(self.convention)
        self.floor = self.least(self._lowest())
        unit = f"TFLOP per 1,000 requests ({self.convention})"
        if limit is not None and limit < self.floor:
            sites = [site for site, names in self.choices.items() if names]
            why = floor_cost(self.full, self.workload, self.convention, sites, bool(self.withdrawing)).reason
            raise SpecError(
                f"--max-tflops: {limit:g} {unit} is below the floor of the space, "
                f"{round_up(self.floor)}: {why}. Allow at least {round_up(self.floor)}"
            )
        if limit is not None and limit >= self.ceiling:
            self.notes.append(
                f"--max-tflops: {limit:g} {unit} is above the uncompressed model's {self.ceiling:.4g}; "
                "the search goes on below that"
            )
        self.high = self.ceiling if limit is None else min(limit, self.ceiling)
        self.low = min(self.high, max(self.floor, self.high / SPAN))

    def _lowest(self) -> list[Slot]:
        """The slots that `_reach` can add: what the smallest budget is met with."""
        slots = []
        for site in ("input", "projector"):
            if self.choices[site]:
                slots.append(Slot(site, None, self.choices[site][0]))
        if not self.choices["projector"]:
            for site in ("vision", "decoder"):
                if self.choices[site]:
                    slots.append(Slot(site, self.depths[site][0], self.choices[site][0]))
                    break
        return slots

    # --- parameters -> policy ---

    def decode(self, params: Mapping[str, Any]) -> Proposal:
        """Return the policy a point stands for; it costs at most its budget, in the space's convention.

        Args:
            params: one value for each of `distributions`.
        """
        budget = max(self.floor, min(float(params["budget"]), self.high))

        def pick(name: str, options: Sequence[int | None]) -> int | None:
            return options[min(int(params[name] * len(options)), len(options) - 1)]

        slots = self.layout(params, budget, pick)
        keeps = self._solve(slots, params, budget)
        positions = params.get("positions", self.positions[0])
        return Proposal(self._tidy(slots, keeps, positions, params), budget)

    def layout(self, params: Mapping[str, Any], budget: float, pick: Pick) -> list[Slot]:
        """Decide on the places of stages; the budget lies between the least and the most they can reach.

        Args:
            params: a point of the space.
            budget: what the policy may cost.
            pick: chooses one of some depths, given the name of the parameter that says which.
        """
        slots: list[Slot] = []
        if (name := params.get("input", NONE)) != NONE:
            slots.append(Slot("input", None, name, "share_input"))
        encoders = str(params.get("encoder_sites", NONE))
        if "vision" in encoders:
            slots += self._cuts("vision", int(params.get("vision_stages", 1)), slots, params, budget, pick)
        if "projector" in encoders:
            slots.append(self._projector(params))
        count = int(params.get("decoder_stages", 0))
        withdraw = params.get("withdraw", NONE)
        if not slots and not count and withdraw == NONE:
            count = 1 if self.choices["decoder"] else 0
        slots = self._reach(slots, count, withdraw, params, budget)
        slots += self._cuts("decoder", count, slots, params, budget, pick)
        if withdraw != NONE:
            slots += self._withdrawal(slots, withdraw, budget, pick)
        return slots or self._lowest()[-1:]

    def _cuts(
        self, site: str, count: int, ahead: list[Slot], params: Mapping[str, Any], budget: float, pick: Pick
    ) -> list[Slot]:
        """Cuts at rising depths by one reducer; the first comes early enough for the budget where nothing else does."""
        found: list[Slot] = []
        reducer = params.get(f"{site}_reducer", self.choices[site][0]) if count else NONE
        layers = list(self.depths[site]) if count else []
        if site == "vision" or not ahead:
            layers = [k for k in layers if self.least([*ahead, Slot(site, k, reducer)]) <= budget]
        for i in range(1, count + 1):
            if not layers:
                break
            layer = pick(f"{site}_depth_{i}", layers)
            layers = [k for k in self.depths[site] if k > layer]
            found.append(Slot(site, layer, reducer, f"share_{site}_{i}"))
        return found

    def _reach(
        self, slots: list[Slot], count: int, withdraw: str, params: Mapping[str, Any], budget: float
    ) -> list[Slot]:
        """Add a projector stage, then an input stage, while the slots cannot come down to the budget."""

        def low_enough() -> bool:
            ahead = list(slots)
            if not ahead and count:
                ahead = [Slot("decoder", self.depths["decoder"][0], self.choices["decoder"][0])]
            elif not ahead and withdraw != NONE:
                ahead = [Slot("decoder", self.depths["decoder"][0], withdraw, zero=True)]
            return bool(ahead) and self.least(ahead) <= budget

        if not low_enough() and self.choices["projector"]:
            slots = [*(s for s in slots if s.site == "input"), self._projector(params)]
        if not low_enough() and self.choices["input"] and all(s.site != "input" for s in slots):
            slots = [Slot("input", None, self.choices["input"][0], "share_input"), *slots]
        return slots

    def _withdrawal(self, slots: list[Slot], name: str, budget: float, pick: Pick) -> list[Slot]:
        """Where all tokens may leave: not so early that the budget could not be spent any more."""
        last = max((s.layer or 0 for s in slots if s.site == "decoder"), default=0)
        places = [Slot("decoder", k, name, zero=True) for k in self.depths["decoder"] if k > last]
        if not slots:  # nothing else to adjust: as late as the budget allows
            return [s for s in places if self.least([s]) <= budget][-1:]
        layers = [s.layer for s in places if s.layer and self.least([s]) >= budget]
        return [Slot("decoder", pick("withdraw_depth", layers), name, zero=True)] if layers else []

    def _projector(self, params: Mapping[str, Any]) -> Slot:
        reducer = params.get("projector_reducer", self.choices["projector"][0])
        return Slot("projector", None, reducer, "share_projector")

    def _solve(self, slots: list[Slot], params: Mapping[str, Any], budget: float) -> list[float]:
        """Return the keep of each slot: by its share of what is possible, the last one by the budget.

        A late stage whose reducer works more than it saves is taken out of `slots`.
        """
        while True:
            keeps = [0.0 if s.zero else LEAST for s in slots]
            adjustable = [i for i, s in enumerate(slots) if not s.zero]
            if not adjustable:
                return keeps
            for i in adjustable[:-1]:
                low, high = self.between(slots, keeps, i, params, budget)
                share = float(params[slots[i].share])
                keeps[i] = min(high, max(low, self.whole(low ** (1 - share) * high**share)))
            last = adjustable[-1]
            solved = self._keep(slots, keeps, last, params, budget)
            if solved is not None:
                keeps[last] = solved
                return keeps
            slots[:] = [s for i, s in enumerate(slots) if i != last] or self._lowest()

    def between(
        self,
        slots: Sequence[Slot],
        keeps: Sequence[float],
        i: int,
        params: Mapping[str, Any],
        budget: float,
    ) -> tuple[float, float]:
        """The least keep of a stage, when it does all the saving, and the most, later ones at one token."""
        alone = [j for j, s in enumerate(slots) if j <= i or s.zero]
        low = self._keep([slots[j] for j in alone], [keeps[j] for j in alone], i, params, budget)
        high = self._keep(slots, keeps, i, params, budget)
        low = self.whole(LEAST) if low is None else low
        return low, max(low, low if high is None else high)

    def _keep(
        self,
        slots: Sequence[Slot],
        keeps: Sequence[float],
        i: int,
        params: Mapping[str, Any],
        budget: float,
    ) -> float | None:
        policy = self._policy(slots, keeps, self.positions[0], params)
        return solve_keep(policy, i, self.full, self.workload, budget, self.convention)

    def whole(self, keep: float) -> float:
        """Round to whole tokens where all images have one size, else to the decimals of a policy id."""
        sizes = {self.full.visual_tokens(r.width, r.height, r.images) for r in self.workload.requests}
        if len(sizes) > 1:
            return max(LEAST, round(keep, 6))
        n = sizes.pop()
        return round(max(1, math.floor(keep * n + 0.5)) / n, 6)

    def _tidy(
        self, slots: Sequence[Slot], keeps: Sequence[float], positions: str, params: Mapping[str, Any]
    ) -> Policy:
        """Build the policy without stages that reduce nothing."""
        used, before = [], 1.0
        for i, keep in enumerate(keeps):
            if keep < before:
                used.append(i)
                before = keep
        return self._policy([slots[i] for i in used], [keeps[i] for i in used], positions, params)

    def _policy(
        self,
        slots: Sequence[Slot],
        keeps: Sequence[float],
        positions: str,
        params: Mapping[str, Any] | None = None,
    ) -> Policy:
        stages = tuple(
            Stage(
                site=s.site,  # type: ignore[arg-type]
                layer=s.layer,
                reducer=s.reducer,
                keep=keep,
                params=variant(
                    registry.get(s.reducer), (params or {}).get(f"{s.site}_variant", 0.0), self.full
                ),
            )
            for s, keep in zip(slots, keeps, strict=True)
        )
        return Policy(model=self.model, positions=positions, stages=stages)  # type: ignore[arg-type]

    def least(self, slots: Sequence[Slot]) -> float:
        """Return the cost of slots at one token an image each (none at a withdrawal)."""
        key = tuple(slots)
        if key not in self._costs:
            policy = self._policy(slots, [0.0 if s.zero else LEAST for s in slots], self.positions[0])
            self._costs[key] = estimate(policy, self.full, self.workload).get(self.convention)
        return self._costs[key]

    # --- fitting ---

    def to_evaluated(self, policy: Policy) -> Policy:
        """Return a proposal with its depths translated to the evaluated model."""
        return policy.for_model(self.evaluated)

    def fits(self, policy: Policy) -> bool:
        """Whether a policy runs on the evaluated model and on the full one, at unchanged depths."""
        try:
            there = policy.for_model(self.evaluated)
            self._check(policy, self.full)
            self._check(there, self.evaluated)
            return there.for_model(self.full).stages == policy.stages
        except AutotcError:
            return False

    def _fits(self, site: str, cls: type[Reducer]) -> bool:
        family = adapters.get(self.full.family)
        if site not in {*cls.sites} & {*family.sites} or not self._engine.runs(family.name, site, cls.name):
            return False
        layers: Sequence[int | None] = self.depths[site] if site in LAYERED else (None,)
        keep = 0.0 if cls.withdraws else 0.5
        slots = [Slot(site, layer, cls.name, zero=cls.withdraws) for layer in layers]
        return bool(slots) and all(self.fits(self._policy([s], [keep], "original")) for s in slots)
