"""The pre-registered test and what is reported beside it, as plain data; see `studies/calibration/PROTOCOL.md`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from autotc import statistics
from autotc.calibration import DEMO
from autotc.calibration import analysis as an
from autotc.calibration import published as pub
from autotc.calibration.methods import BASELINES, METHODS, UNMAPPED, published_on
from autotc.calibration.run import Fresh, Measured
from autotc.statistics import Interval

PROXIES = {"llava-tiny": "llava", "qwen2_5_vl-tiny": "qwen2_5_vl"}
SHARES = (2 / 3, 6 / 7)  # of the columns, for yardsticks other than the pre-registered one


def calibration(measured: Sequence[Measured]) -> dict[str, Any]:
    """Return the whole study: what the tables say, and each proxy's test with its verdict."""
    proxies = {m.proxy: examine(m) for m in measured}
    # only a proxy that is tested on its own family can pass, so only those are claims made together
    claims = [found for found in proxies.values() if found["tested_on"] == "its family"]
    adjusted = statistics.holm([found["test"]["p"] for found in claims]).tolist()
    for found in proxies.values():
        judge(found, adjusted[claims.index(found)] if found in claims else found["test"]["p"])
    rows = pub.entries()
    return {
        "published": {
            name: _published([r for r in rows if family is None or r.family == family])
            for name, family in (("llava", "llava"), ("qwen2_5_vl", "qwen2_5_vl"), ("all models", None))
        },
        "methods": [
            {
                "name": m.name,
                "reducer": m.reducer,
                "presets": list(m.presets),
                "how": m.how,
                "since": published_on(m.name),
            }
            for m in METHODS
        ],
        "unmapped": UNMAPPED,
        "proxies": proxies,
    }


def examine(measured: Measured) -> dict[str, Any]:
    """Compare one proxy with the tables of its family, and with all."""
    family = PROXIES[measured.proxy]
    found = an.retentions(measured)
    values = {key: interval.value for key, interval in found.items()}
    rows = pub.entries()
    own = compare([r for r in rows if r.family == family], values)
    every = compare(list(rows), values)
    on_own = own["concordance"]["n"] >= an.LEAST_PAIRS
    return {
        "proxy": measured.proxy,
        "family": family,
        "frozen": measured.frozen,
        "examples": len(measured.full),
        "images": len(np.unique(measured.image)),
        "first_seed": Fresh.first_seed["held-out"],
        "full": float(measured.full.mean()),
        "blind": float(measured.blind.mean()),
        "retention": [{"method": m, "budget": b, **figure(interval)} for (m, b), interval in found.items()],
        "tested_on": "its family" if on_own else "all models",
        "test": own if on_own else every,
        "family_tables": own,
        "all_tables": every,
    }


def compare(rows: Sequence[pub.Entry], values: an.Values) -> dict[str, Any]:
    """Return everything that one set of tables says about one proxy's retentions.

    Args:
        rows: of the tables.
        values: the proxy's retention by method and budget; pairs with a method that is not there are left out.
    """
    duels = [d for d in pub.duels(rows) if all((m, d.budget) in values for m in d.pair)]
    settled = pub.yardstick(duels)
    pairs, proxy = an.cases(settled), an.by_value(values)
    right = an.scores(pairs, proxy)
    p, shuffles, exact = an.chance(pairs, values) if pairs else (1.0, 0, True)
    out = an.held_out(duels)
    agrees, same = np.array([c.agrees for c in out]), an.scores(out, proxy)
    clear = an.decided(duels)
    misses = an.misses(rows, values)
    return {
        "concordance": figure(an.share(pairs, right)),
        "p": p,
        "shuffles": shuffles,
        "exact": exact,
        "power": [[right, q] for right, q in an.power(pairs)],
        "pairs": [
            {
                "budget": s.budget,
                "winner": s.winner,
                "loser": s.loser,
                "sources": list(s.sources),
                "proxy": [values[s.winner, s.budget], values[s.loser, s.budget]],
                "right": score,
            }
            for s, score in zip(settled, right.tolist(), strict=True)
        ],
        "by_budget": {pub.NAMES[b]: _part(pairs, right, lambda c, b=b: c.budget == b) for b in pub.BUDGETS},
        "ceiling": figure(an.share(out, agrees)),
        "on_ceiling": figure(an.share(out, same)),
        "ceiling_by_budget": {
            pub.NAMES[b]: [
                _part(out, agrees, lambda c, b=b: c.budget == b),
                _part(out, same, lambda c, b=b: c.budget == b),
            ]
            for b in pub.BUDGETS
        },
        "by_source": {
            source: _part(clear, an.scores(clear, proxy), lambda c, source=source: c.source == source)
            for source in sorted({c.source for c in clear})
        },
        "predictors": {
            "newer is better, yardstick": figure(an.share(pairs, an.scores(pairs, an.newer))),
            "newer is better, held-out cases": figure(an.share(out, an.scores(out, an.newer))),
            "a method beats random or smaller images, decided pairs": _beats(
                clear, lambda c: c.winner not in BASELINES
            ),
            "the proxy on the same pairs": _beats(clear, proxy),
        },
        "sensitivity": {f"{share:.2f}": _with_share(rows, values, share) for share in SHARES},
        "rankings": _rankings(rows, values),
        "error": {key: figure(i) for key, i in an.errors(misses, lambda m: m.method).items()},
        "error_by_budget": {
            key: figure(i) for key, i in an.errors(misses, lambda m: pub.NAMES[m.budget]).items()
        },
        "error_all": figure(next(iter(an.errors(misses, lambda m: "").values()), an.NOTHING)),
        "bias": float(np.mean([m.proxy - m.published for m in misses])) if misses else None,
        "error_between_sources": figure(an.between_sources(misses)),
        "published": [vars(m) for m in misses],
    }


def judge(found: dict[str, Any], p: float) -> None:
    """Write the verdict into what `examine` returned.

    Args:
        found: of one proxy.
        p: of its test, after Holm's correction.
    """
    test = found["test"]
    ceiling, mine = test["ceiling"], test["on_ceiling"]["value"]
    criteria = {
        "concordance": test["concordance"]["value"] >= an.LEAST_CONCORDANCE,
        "chance": p < an.ALPHA,
        "ceiling": ceiling["low"] is not None and mine >= ceiling["low"],
    }
    met = all(criteria.values())
    found["criteria"], found["p"] = criteria, p
    found["passed"] = None if met and found["tested_on"] != "its family" else met
    pairs, right = test["concordance"]["n"], test["concordance"]["value"]
    where = "" if found["tested_on"] == "its family" else " on other models (its own family has too few)"
    name = found["proxy"]
    head = {
        True: f"{name} passed its calibration",
        False: f"{name} is a {DEMO}, as it failed its calibration",
        None: f"{name} is a {DEMO}, as its calibration could not be made on its own family",
    }[found["passed"]]
    found["text"] = (
        f"{head}: of {pairs} pairs of published methods that independent measurements settle{where}, it has the better "
        f"one ahead in {100 * right:.0f} % (needed: 80 %; p = {p:.2g}, needed: below 0.05); where sources can be held "
        f"out, real models agree in {100 * ceiling['value']:.0f} % of the cases and it in {100 * mine:.0f} %."
    )


def verdicts(study: dict[str, Any]) -> dict[str, Any]:
    """Return what ships with the package: `autotc.calibration.verdict` reads it."""
    return {
        name: {
            "passed": found["passed"],
            "concordance": found["test"]["concordance"]["value"],
            "pairs": found["test"]["concordance"]["n"],
            "p": found["p"],
            "ceiling": found["test"]["ceiling"]["value"],
            "text": found["text"],
            "examples": found["examples"],
            "frozen": found["frozen"],
        }
        for name, found in study["proxies"].items()
    }


def figure(found: Interval) -> dict[str, Any]:
    """Return value, standard error, limits and n of an interval; None where there is none."""
    there = found.n > 0
    return {
        "value": found.value if there else None,
        "stderr": found.stderr,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "clusters": found.clusters,
    }


def _part(cases: Sequence[an.Case], values: np.ndarray, wanted: Any) -> dict[str, Any]:
    chosen = [i for i, c in enumerate(cases) if wanted(c)]
    return figure(an.share([cases[i] for i in chosen], values[chosen] if chosen else values[:0]))


def _beats(cases: Sequence[an.Case], predict: Any) -> dict[str, Any]:
    """Score the pairs of a method with a baseline; `predict` is a predictor or says of a case whether it is right."""
    mixed = [c for c in cases if (c.winner in BASELINES) != (c.loser in BASELINES)]
    try:
        values = np.array([float(predict(c)) for c in mixed])
    except TypeError:
        values = an.scores(mixed, predict)
    return figure(an.share(mixed, values))


def _rankings(rows: Sequence[pub.Entry], values: an.Values) -> list[dict[str, Any]]:
    found = an.rankings(rows, values)
    adjusted = statistics.holm([r.p for r in found]).tolist()
    return [{**vars(r), "p_holm": p} for r, p in zip(found, adjusted, strict=True)]


def _with_share(rows: Sequence[pub.Entry], values: an.Values, share: float) -> dict[str, Any]:
    duels = [d for d in pub.duels(rows, share) if all((m, d.budget) in values for m in d.pair)]
    pairs = an.cases(pub.yardstick(duels))
    return figure(an.share(pairs, an.scores(pairs, an.by_value(values))))


def _published(rows: Sequence[pub.Entry]) -> dict[str, Any]:
    duels = pub.duels(rows)
    return {
        "tables": len({d.table for d in duels}),
        "sources": sorted({d.source for d in duels}),
        "duels": len(duels),
        "decided": sum(d.decided != 0 for d in duels),
        "yardstick": len(pub.yardstick(duels)),
        "contradicted": [[b, *pair] for b, pair in pub.contradicted(duels)],
    }
