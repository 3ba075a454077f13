"""The benchmark of reducers names what its ratios are to, and leaves nothing out."""

from __future__ import annotations

import pytest

from autotc import reducer_bench
from autotc.reducer import reducers


def test_every_reducer_that_sees_tokens_is_timed() -> None:
    seen: list[str] = []
    result = reducer_bench.run(tokens=16, repeats=2, each=seen.append)
    names = {row["name"] for row in result["reducers"]}
    assert names == {n for n in reducers.names() if reducers.get(n).sites != ("input",)} == set(seen)
    assert "cosine map of 16 tokens" in result["alternative"]["name"]
    for row in result["reducers"]:
        assert row["ratio"] == pytest.approx(row["ms"] / result["alternative"]["ms"])
        assert row["why"], f"{row['name']}: no word on its cost"


def test_slowest_first() -> None:
    rows = reducer_bench.run(tokens=16, repeats=2, names=("random", "fastv"))["reducers"]
    assert [row["ms"] for row in rows] == sorted((row["ms"] for row in rows), reverse=True)
