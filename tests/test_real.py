"""`autotc real` and `make real` with fakes that answer: what it writes, and that a second run measures nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from autotc import calibrating, cli, running
from autotc import real as module
from autotc import verify as verifying
from autotc.policy import load_policy
from autotc.proxies import folder
from autotc.store import Store
from tests.real_fixtures import Fakes, plain_jsonl

ROOT = Path(__file__).parents[1]
WORDS = ("--model", "model", "--data", "data.jsonl", "--out", "out", "--trials", "4", "--anchors", "8")
WORDS += ("--examples", "18", "--max-drop", "0.5")


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUTOTC_STORAGE", raising=False)
    shutil.copytree(folder("qwen2_5_vl-tiny"), "model")
    plain_jsonl(tmp_path)
    fakes = Fakes(examples=18)
    monkeypatch.setattr(calibrating, "make_evaluator", fakes.evaluator)
    monkeypatch.setattr(running, "make_evaluator", fakes.evaluator)
    monkeypatch.setattr(verifying, "EvaluatorProcess", fakes.process)
    monkeypatch.setattr(module, "verify", partial(verifying.verify, free_running=0))

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["autotc", "real", *WORDS, *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
            raise SystemExit(0)
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    run.fakes = fakes  # type: ignore[attr-defined]
    return run


@pytest.mark.slow
def test_everything_is_written_once_and_a_second_run_measures_nothing(real) -> None:
    fakes = real.fakes

    def impatient(on: str, policy: object, split: str) -> None:
        if len(fakes.calls) == 40:
            raise KeyboardInterrupt

    fakes.trouble = impatient
    code, _, _ = real()
    assert code == 130
    fakes.trouble = lambda on, policy, split: None
    code, out, _ = real()
    assert code == 0
    names = {p.name for p in Path("out").iterdir()}
    fronts = {f"{kind}-{tokens}.json" for kind in ("front", "policy") for tokens in (192, 128, 64)}
    assert names == {"README.md", "results.json", *fronts}
    page = Path("out/README.md").read_text()
    assert page in out and "nan" not in page
    assert "On your model and data the proxy orders policies" in page
    limits = []
    for tokens in (192, 128, 64):
        assert f"## {tokens} of 576 tokens" in page
        rows = json.loads(Path(f"out/front-{tokens}.json").read_text())
        labels = [r["label"] for r in rows if r["reference"]]
        assert {"uncompressed", "random"} <= set(labels) and len(labels) == len(set(labels))
        costs = [
            next(m["value"] for m in r["metrics"] if m["name"] == "tflops_literature")
            for r in rows
            if r["policy"].get("stages")
        ]
        limits.append(max(costs))
        policy = load_policy(f"out/policy-{tokens}.json")
        assert policy.id in [load_policy(r["policy"]).id for r in rows if not r["reference"]]
        assert {n.on for n in policy.expected if n.kind == "measured" and n.name == "quality"} == {"model"}
    assert limits == sorted(limits, reverse=True) and limits[0] > 2 * limits[2]
    # one study, which all budgets share
    (study,) = Store().studies()
    assert sum(study.counts.values()) == 12 and study.state == "finished"
    verdicts = json.loads(Path("out/results.json").read_text())
    assert set(verdicts) == {"192", "128", "64"}
    for tokens, verdict in verdicts.items():
        status = load_policy(f"out/policy-{tokens}.json").status
        assert status == ("verified" if verdict["passed"] else "unverified")
    before, written = len(fakes.calls), page
    code, out, _ = real("--json")
    assert code == 0 and len(fakes.calls) == before
    document = json.loads(out)
    assert [b["tokens"] for b in document["budgets"]] == [192, 128, 64]
    assert document["calibration"]["measured"] == 0
    assert Path("out/README.md").read_text() == written


@pytest.mark.slow
def test_a_given_policy_is_verified_first(real, tmp_path: Path) -> None:
    stage = {"site": "decoder", "layer": 8, "reducer": "fastv", "keep": 0.9}
    model = {"family": "qwen2_5_vl", "id": "model", "decoder_layers": 14, "vision_blocks": 4}
    Path("mine.json").write_text(json.dumps({"schema": "autotc/policy/1", "model": model, "stages": [stage]}))

    def stop(on: str, policy: object, split: str) -> None:
        if on != "model" or split != "held-out":
            raise KeyboardInterrupt

    real.fakes.trouble = stop
    code, _, err = real("--policy", "mine.json")
    assert code == 130 and "mine.json: verified" in err
    assert load_policy("mine.json").status == "verified"
    assert len(real.fakes.calls) == 2
    code, _, err = real("--policy", "mine.json")
    assert code == 130 and len(real.fakes.calls) == 2  # not measured again


def test_make_real_says_what_it_needs(tmp_path: Path) -> None:
    def dry(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["make", "-n", "-o", ".venv/.ready", "real", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    given = dry("MODEL=/m", "DATA=d.jsonl", "POLICY=p.json", "ARGS=--trials 3").stdout
    assert 'autotc real --model "/m" --data "d.jsonl" --policy "p.json" --trials 3' in given
    assert "--policy" not in dry("MODEL=/m", "DATA=d.jsonl").stdout
    line = next(x for x in dry().stdout.splitlines() if x.startswith("test -n"))
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert done.returncode == 2 and "make real MODEL=DIR DATA=my.jsonl" in done.stdout
