"""Statistics of outcomes: clustered errors, ratios, what is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autotc._outcomes import (
    Outcomes,
    clustered,
    grounded,
    mean,
    numbers,
    outcomes_from_columns,
    paired,
    worst,
)


def made(n: int, per_image: int = 1, **columns: Any) -> Outcomes:
    nan = np.full(n, np.nan)
    given = {
        "id": np.array([f"e{i}" for i in range(n)]),
        "image": np.array([f"i{i // per_image}" for i in range(n)]),
        "group": np.array(["all"] * n),
        "correct": np.zeros(n),
        "full": np.ones(n),
        "blind": np.zeros(n),
        "agreement": np.zeros(n),
        "kl": nan,
        "next_correct": nan,
        "answer": np.array([""] * n),
    }
    given.update({k: np.asarray(v) for k, v in columns.items()})
    return Outcomes("search", "proxy:toy", "accuracy", **given)


def test_clustered_error_of_single_example_clusters_is_the_usual_one() -> None:
    x = np.random.default_rng(0).normal(size=50)
    assert clustered(x - x.mean(), np.arange(50)) == pytest.approx(x.std(ddof=1) / np.sqrt(50))


def test_clustered_error_has_the_right_size_for_dependent_examples() -> None:
    rng = np.random.default_rng(1)
    means, errors = [], []
    for _ in range(400):
        x = rng.normal(size=40).repeat(4) + 0.1 * rng.normal(size=160)
        found = mean(x, np.arange(160) // 4)
        means.append(found[0])
        errors.append(found[1])
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)
    naive = np.std(rng.normal(size=160)) / np.sqrt(160)
    assert np.mean(errors) > 1.6 * naive


def test_one_image_has_no_standard_error_and_none_no_mean() -> None:
    assert mean(np.ones(4), np.zeros(4))[1] is None
    assert mean(np.full(3, np.nan), np.arange(3))[2] == 0


def test_grounded_is_the_ratio_with_a_delta_method_error() -> None:
    rng = np.random.default_rng(2)
    ratios, errors = [], []
    for _ in range(300):
        blind = (rng.random(200) < 0.2).astype(float)
        full = np.maximum(blind, rng.random(200) < 0.9)
        some = np.where(rng.random(200) < 0.7, full, blind)
        found = grounded(made(200, correct=some, full=full, blind=blind))
        assert found is not None and found[1] is not None
        ratios.append(found[0])
        errors.append(found[1])
    assert np.mean(ratios) == pytest.approx(0.7, abs=0.01)
    assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.1)


def test_grounded_is_left_out_where_the_image_does_not_matter() -> None:
    assert grounded(made(50, blind=np.ones(50))) is None
    rng = np.random.default_rng(3)
    noise = (rng.random(50) < 0.5).astype(float)
    assert grounded(made(50, full=noise, blind=rng.permutation(noise))) is None


def test_worst_group_ignores_tiny_groups() -> None:
    group = np.array(["a"] * 10 + ["b"] * 10 + ["c"] * 3)
    correct = np.array([1.0] * 10 + [0.5] * 10 + [0.0] * 3)
    name, (value, _, n) = worst(made(23, group=group, correct=correct)) or ("", (0, 0, 0))
    assert (name, value, n) == ("b", 0.5, 10)
    assert worst(made(10, correct=np.ones(10))) is None


def test_missing_is_left_out_and_never_a_number() -> None:
    kl = np.full(20, np.nan)
    kl[:5] = 0.5
    found = {x.name: x for x in numbers(made(20, kl=kl, correct=np.arange(20) % 2))}
    assert set(found) == {"quality", "agreement", "kl", "grounded", "worst_group_drop"}
    assert (found["worst_group_drop"].value, found["worst_group_drop"].n) == (0.5, 20)
    assert (found["kl"].value, found["kl"].n, found["kl"].unit) == (0.5, 5, "nats")
    assert found["quality"].n == 20 and found["quality"].stderr is not None
    assert found["quality"].kind == "measured" and found["quality"].on == "proxy:toy"
    assert numbers(made(0)) == []


def test_paired_difference_joins_by_example_and_is_tighter() -> None:
    rng = np.random.default_rng(4)
    base = (rng.random(100) < 0.5).astype(float)
    other = made(100, correct=base)
    one = made(100, correct=np.where(np.arange(100) < 5, 1 - base, base)).take(np.arange(99, -1, -1))
    difference, error, n = paired(one, other)
    assert n == 100 and difference == pytest.approx((1 - 2 * base[:5]).sum() / 100)
    single = mean(base, np.arange(100))[1]
    assert error is not None and single is not None and error < single
    assert paired(one.take(slice(0, 7)), other)[2] == 7


def test_columns_come_back_and_increments_join() -> None:
    kl = np.array([0.5, np.nan, 1.0, np.nan])
    trace = [{"site": "projector", "layer": None, "reducer": "x", "asked": 10.0, "kept": 8.0}]
    whole = made(4, kl=kl)
    whole.trace.extend(trace)
    columns = whole.columns()
    assert columns["kl"] == [0.5, None, 1.0, None]
    back = outcomes_from_columns(columns, split="search", on="proxy:toy", metric="accuracy", trace=trace)
    np.testing.assert_array_equal(back.kl, kl)
    later = outcomes_from_columns(
        made(4).columns(),
        split="search",
        on="proxy:toy",
        metric="accuracy",
        trace=[{**trace[0], "asked": 20.0, "kept": 16.0}],
    )
    more = back + later
    assert len(more) == 8 and more.trace[0]["asked"] == 15.0 and more.trace[0]["kept"] == 12.0
    with pytest.raises(ValueError, match="differ"):
        _ = back + Outcomes("held-out", "proxy:toy", "accuracy", *[getattr(back, c) for c in columns])
