"""Importing autotc is light: nothing heavy is loaded and nothing is patched."""

from __future__ import annotations

import subprocess
import sys

import pytest

import autotc


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )


@pytest.mark.parametrize(
    "statement", ["import autotc", "import autotc.policy, autotc.workload", "import autotc.cli"]
)
def test_nothing_heavy_is_loaded(statement):
    assert not loaded_after(statement) & {
        "torch",
        "transformers",
        "optuna",
        "sqlalchemy",
        "cupy",
        "matplotlib",
        "plotly",
    }


def test_public_names_are_those_of_the_contract_and_resolve():
    for name in (
        "load_policy",
        "compress",
        "TokenView",
        "Assignment",
        "anatomy",
        "estimate",
        "Store",
        "reducers",
    ):
        assert name in autotc.__all__
        assert getattr(autotc, name) is not None
    assert callable(autotc.reducers.get)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = autotc.nothing
