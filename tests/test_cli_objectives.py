"""Objectives on the command line: searched, shown, drawn, and answered anew from what is stored."""

from __future__ import annotations

import json
from pathlib import Path

from tests.test_cli import SEARCH, autotc  # noqa: F401


def test_a_search_with_three_objectives_is_shown_drawn_and_told(autotc):  # noqa: F811
    aims = [word for name in ("quality", "tflops_exact", "kv_gib") for word in ("--objective", name)]
    code, out, _ = autotc(*SEARCH, *aims)
    assert (
        code == 0
        and "least kv_gib" in " ".join(out.split())
        and "kv (GiB a request)" in " ".join(out.split())
    )
    code, out, err = autotc("front", "s", "--json", "--with-history", "--plot", "f.png", "--x", "kv_gib")
    assert code == 0 and Path("f.png").stat().st_size > 10_000 and "wrote f.png" in err
    found = json.loads(out)
    assert [o["name"] for o in found["objectives"]] == ["quality", "tflops_exact", "kv_gib"]
    after = [step["share"] for step in found["hypervolume"]["after"]]
    assert after == sorted(after) and 0 < after[-1] <= 1
    assert set(found["hypervolume"]["reference_point"]) == {"quality", "tflops_exact", "kv_gib"}
    # without the flag the document is the list it always was; in fewer objectives the front is smaller
    rows = json.loads(autotc("front", "s", "--json")[1])
    assert [r["trial"] for r in rows] == [r["trial"] for r in found["front"]]
    two = json.loads(autotc("front", "s", "--json", "--objective", "quality", "--objective", "kv_gib")[1])
    assert {r["trial"] for r in two} <= {r["trial"] for r in rows}
    code, _, err = autotc("front", "s", "--plot", "f.png", "--y", "kvgib")
    assert code == 2 and "--y: unknown metric 'kvgib'. Did you mean 'kv_gib'" in err
    code, _, err = autotc(*SEARCH)
    assert code == 2 and "objectives was ['quality', 'tflops_exact', 'kv_gib'], now []" in " ".join(
        err.split()
    )
