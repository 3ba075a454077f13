"""`autotc verify`: what passes is marked with its figures, what does not is left as it was, with exit code 1."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from autotc import cli
from autotc import verify as module
from autotc.policy import ModelRef, Number, Policy, Stage, load_policy
from autotc.proxies import folder
from tests.real_fixtures import Fakes, plain_jsonl

MODEL = ModelRef(family="qwen2_5_vl", id="model", decoder_layers=14, vision_blocks=4)
COST = Number(name="tflops_exact", value=9.0, unit="TFLOP/1000 requests", kind="estimated", on="model")
PREDICTED = Number(
    name="predicted_quality",
    value=0.8,
    unit="accuracy",
    kind="estimated",
    on="model",
    split="search",
    stderr=0.1,
)
STALE = Number(
    name="quality", value=0.7, unit="accuracy", kind="measured", on="proxy:x", split="search", stderr=0.1, n=9
)


@pytest.fixture
def verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Write a policy that keeps a share of the tokens and verify it; returns (exit code, stdout, stderr, file)."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder("qwen2_5_vl-tiny"), "model")
    plain_jsonl(tmp_path)
    monkeypatch.setattr(module, "EvaluatorProcess", Fakes(examples=400).process)

    def run(keep: float, *words: str) -> tuple[int, str, str, Path]:
        stage = Stage(site="decoder", layer=8, reducer="fastv", keep=keep)
        policy = Policy(model=MODEL, stages=(stage,), expected=(STALE, COST, PREDICTED))
        path = tmp_path / "policy.json"
        path.write_text(policy.json_text())
        command = ["autotc", "verify", str(path), "--model", "model", "--data", "data.jsonl"]
        monkeypatch.setattr(sys, "argv", [*command, "--free-running", "0", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
            raise SystemExit(0)
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err, path

    return run


def test_a_policy_that_loses_little_is_marked_with_what_was_measured(verify) -> None:
    code, out, _, path = verify(0.9, "--examples", "400")
    assert code == 0 and "verified" in out and "says so now" in out
    policy = load_policy(path)
    assert policy.status == "verified"
    names = {n.name for n in policy.expected}
    assert {"quality", "worst_group", "agreement", "kl", "next_question", "tflops_exact"} <= names
    # what was measured elsewhere, and what was predicted, is gone; the estimated cost stays
    assert "predicted_quality" not in names and STALE not in policy.expected and COST in policy.expected
    for n in policy.expected:
        if n.kind == "measured":
            assert (n.on, n.split) == ("model", "held-out") and (n.n or 0) > 0
    quality = next(n for n in policy.expected if n.name == "quality")
    assert quality.n == 400 and quality.stderr is not None
    # everything that the evaluator gives is in the document, under its own name
    code, out, _, path = verify(0.9, "--examples", "400", "--json")
    result = json.loads(out)
    measured = {n.name for n in load_policy(path).expected if n.kind == "measured"}
    assert code == 0 and result["passed"] and {n["name"] for n in result["metrics"]} == measured


def test_one_that_loses_too_much_is_left_as_it_was(verify, tmp_path: Path) -> None:
    code, out, _, path = verify(0.001, "--examples", "400")
    assert code == 1
    assert "not verified: the 95 % bound of the difference is -" in out and "accepted are -2 points" in out
    policy = load_policy(path)
    assert policy.status == "unverified" and policy.expected == (STALE, COST, PREDICTED)
    before = path.read_bytes()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".policy")] == []
    code, out, _, path = verify(0.001, "--examples", "400", "--json")
    assert code == 1 and json.loads(out)["passed"] is False and path.read_bytes() == before
    # what was accepted decides
    assert verify(0.001, "--examples", "400", "--max-drop", "1")[0] == 0


def test_too_few_examples_to_be_sure_do_not_pass(verify) -> None:
    assert verify(0.6, "--max-drop", "0.1", "--examples", "400")[0] == 0
    # not one of eight answers changes, but four images without a loss rule out little
    code, out, _, path = verify(0.6, "--max-drop", "0.1", "--examples", "8")
    assert code == 1 and "More --examples narrow it" in out and load_policy(path).status == "unverified"
    assert f"is {100 * (0.05**0.25 - 1):+.1f} points" in out


def test_a_policy_of_another_depth_or_no_weights_is_refused(verify) -> None:
    code, _, err, path = verify(0.9, "--model", "qwen2.5-vl")
    assert code == 2 and load_policy(path).status == "unverified"
    assert "depth" in err or "decoder layers" in err
    code, _, err, path = verify(0.9, "--device", "cuda:77")
    assert code == 2 and "cuda:77 is not here" in err and load_policy(path).status == "unverified"
