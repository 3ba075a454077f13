"""Who is compared with whom on held-out data, from stored rows alone: no model and no sampler is needed for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autotc._outcomes import Outcomes
from autotc.metrics import Metric
from autotc.picking import decisive
from autotc.search._claims import Claim, Comparison, conclude, power, spread
from autotc.search.objectives import COST, OBJECTIVES, QUALITY
from autotc.store import TrialRow

BASELINES = ("random", "downsample")

Within = Callable[[TrialRow], bool]
Read = Callable[[int, str], Outcomes]


def rivals(rows: Sequence[TrialRow], within: Within) -> list[TrialRow]:
    """Return what a front is compared with on held-out: the best preset on selection, the baselines, and the
    uncompressed model.

    Args:
        rows: finished trials and references.
        within: whether the costs of one are within the limits.
    """
    references = [r for r in rows if r.role == "reference" and r.number_of(QUALITY.name, "selection")]
    cheap = [r for r in references if r.policy.stages and within(r)]
    presets = [r for r in cheap if r.label not in BASELINES]
    best = [max(presets, key=lambda r: quality(r, "selection"))] if presets else []
    plain = [r for r in references if not r.policy.stages]
    return [*best, *(r for r in cheap if r.label in BASELINES), *plain]


def claims(
    front: Sequence[TrialRow],
    others: Sequence[TrialRow],
    outcomes: Read,
    looks: int,
    objectives: Sequence[Metric] = OBJECTIVES,
) -> tuple[tuple[Claim, ...], tuple[str, ...]]:
    """Compare a front with its rivals, each at its exact cost.

    Rivals and members are chosen on selection; the differences are those on held-out.

    Args:
        front: members.
        others: from `rivals`.
        outcomes: reads those of a trial on a split.
        looks: at the held-out split so far.
        objectives: of the search; a member is compared with what costs no less in any of them.

    Returns:
        The claims, and a line for each that cannot be made, with the reason.
    """
    front = [r for r in front if r.number_of(QUALITY.name, "held-out")]
    others = [r for r in others if r.number_of(QUALITY.name, "held-out")]
    if not front or not others:
        missing = "the front" if not front else "what it would be compared with"
        return (), (f"No claim is made: {missing} was not measured on held-out examples",)
    number = front[0].number_of(QUALITY.name, "held-out")
    if number is not None and number.unit == "agreement":
        return (), (
            "No claim is made: the data has no answers, so quality is agreement with the uncompressed model, and "
            "agreeing is not being right. Give answers in --data",
        )
    comparisons, refused = [], []
    for rival in others:
        mine = against(front, rival, objectives)
        if mine is None:
            refused.append(
                f"No claim against {called(rival)}: no member of the front costs as little by the exact count "
                f"({rival.costs[COST.name]:.4g} TFLOP per 1,000 requests)"
                + "".join(f", in {m.name} as well" for m in objectives if m.on_cost and m != COST)
            )
            continue
        found = (outcomes(row.id, "held-out") for row in (mine, rival))
        costs = (mine.costs[COST.name], rival.costs[COST.name])
        comparisons.append(Comparison(mine.number or 0, called(rival), _why(rival), *costs, *found))
    made, few = conclude(comparisons, looks)
    return made, (*refused, *few)


def detectable(rows: Sequence[TrialRow], outcomes: Read, available: int, wanted: int) -> str:
    """Say which difference the held-out examples show; the spread is the stored one where there is one.

    Args:
        available, wanted: held-out examples there are, and those asked for.
    """
    measured = None
    for split in ("held-out", "selection", "search"):
        have = [r for r in rows if r.number_of(QUALITY.name, split) is not None and r.policy.stages]
        plain = next((r for r in have if r.label == "random"), None)
        if plain is not None and len(have) > 1:
            others = [outcomes(r.id, split) for r in have if r is not plain]
            measured = spread(others, outcomes(plain.id, split))
            break
    return power(available, wanted, measured)


def disagreement(rows: Sequence[TrialRow], within: Within) -> str | None:
    """Say where the two conventions of counting FLOPs name different winners, None where they agree.

    Each convention gets the cost of plainly keeping random tokens under the limit; the winner is the best
    policy on selection, references included, that costs no more by that count.
    """
    rows = [r for r in rows if r.policy.stages and r.number_of(QUALITY.name, "selection")]
    plain = next((r for r in rows if r.label == "random" and within(r)), None)
    if plain is None:
        return None
    winners = {}
    for convention in ("literature", "exact"):
        name = f"tflops_{convention}"
        cheap = [r for r in rows if r.costs[name] <= plain.costs[name] * (1 + 1e-9)]
        winners[convention] = max(cheap, key=lambda r: (quality(r, "selection"), -r.costs[name]))
    one, other = winners["literature"], winners["exact"]
    if one.policy.id == other.policy.id:
        return None
    return (
        f"The two ways of counting name different winners at the cost of random tokens: by the papers' "
        f"count {called(one)} ({one.policy.describe()}), by the exact count {called(other)} "
        f"({other.policy.describe()})"
    )


def against(
    front: Sequence[TrialRow], rival: TrialRow, objectives: Sequence[Metric] = OBJECTIVES
) -> TrialRow | None:
    """Return the best member on selection among those that cost no more than a rival, by the exact count and by each
    cost among the objectives.
    """
    costs = {COST, *(m for m in objectives if m.on_cost)}
    cheaper = [r for r in front if all(m.of(r.costs) <= m.of(rival.costs) * (1 + 1e-9) for m in costs)]
    return max(cheaper, key=lambda r: quality(r, "selection")) if cheaper else None


def quality(row: TrialRow, split: str) -> float:
    """Return the quality of a row on a split, as rows are chosen by it; -1 where it was not measured."""
    number = decisive(row.number_of, QUALITY.name, split)
    return -1.0 if number is None else number.value


def called(row: TrialRow) -> str:
    """Return the name of a row in a sentence."""
    return f"trial {row.number}" if row.role == "trial" else str(row.label)


def _why(rival: TrialRow) -> str:
    if not rival.policy.stages:
        return "every token"
    return "baseline" if rival.label in BASELINES else "best preset on selection"
