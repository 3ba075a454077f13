"""`autotc calibrate` with fakes that answer: what it runs, stores, resumes, says, and what a search makes of it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from autotc import calibrating, cli, pairs, running
from autotc.calibrating import calibrate
from autotc.errors import ModelError, SpecError
from autotc.policy import Policy
from autotc.proxies import folder
from autotc.search._fidelity import Screen
from autotc.search.spec import SearchSpec
from autotc.store import Store
from tests.real_fixtures import Fakes, plain_jsonl

PROXY = "proxy:qwen2_5_vl-tiny"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """A folder with weights and data in it, and fakes that answer for the weights and for the proxy."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUTOTC_STORAGE", raising=False)
    shutil.copytree(folder("qwen2_5_vl-tiny"), "model")
    plain_jsonl(tmp_path)
    fakes = Fakes()
    monkeypatch.setattr(calibrating, "make_evaluator", fakes.evaluator)
    monkeypatch.setattr(running, "make_evaluator", fakes.evaluator)
    return fakes


def go(n: int = 9, examples: int = 18, **changes: object) -> tuple[calibrating.Calibration, list[str]]:
    said: list[str] = []
    options = {"storage": None, "device": "auto", "skip_bad": False, **changes}
    return calibrate("model", "data.jsonl", n, examples, say=said.append, **options), said  # type: ignore[arg-type]


def test_anchors_run_once_on_both_and_never_on_held_out(world: Fakes) -> None:
    found, said = go()
    assert found.measured == 9 and len(found.anchors) == 9 and found.agreement.n == 9
    assert {(on, split) for on, _, split, _ in world.calls} == {("model", "selection"), (PROXY, "search")}
    assert len({(on, policy) for on, policy, _, _ in world.calls}) == len(world.calls) == 18
    assert any("18 examples of the selection split" in line for line in said)
    assert sum("anchor " in line and "left 0:" in line for line in said) == 9
    for a in found.anchors:
        on_model, on_proxy = a.numbers
        assert (on_model.on, on_model.split, on_model.n) == ("model", "selection", 18)
        assert (on_proxy.on, on_proxy.n) == (PROXY, 256) and on_proxy.stderr
        assert a.outcomes is not None and len(a.outcomes["model"]["correct"]) == 18
    # the fakes of model and proxy score alike
    rho = found.agreement.overall.rho
    assert rho is not None and rho > 0.7
    before = len(world.calls)
    again, said = go()
    assert again.measured == 0 and len(world.calls) == before and again.agreement == found.agreement
    assert "9 of 9 anchors are stored already." in said
    more, _ = go(11)
    assert more.measured == 2 and more.agreement.n == 11 and len(world.calls) == before + 4
    (row,) = Store().calibrations()
    assert row.result == more.agreement.as_dict() and row.model == "model"


def test_an_interrupted_run_goes_on(world: Fakes) -> None:
    def impatient(on: str, policy: Policy | None, split: str) -> None:
        if len(world.calls) == 7:
            raise KeyboardInterrupt

    world.trouble = impatient
    with pytest.raises(KeyboardInterrupt):
        go()
    (row,) = Store().calibrations()
    assert len(row.anchors) == 3 and row.finished is None
    world.trouble = lambda on, policy, split: None
    found, _ = go()
    assert found.measured == 6 and found.agreement.n == 9


def test_what_cannot_run_is_left_out_with_its_reason_and_tried_again(world: Fakes) -> None:
    bad: list[str] = []

    def broken(on: str, policy: Policy | None, split: str) -> None:
        if on == "model" and policy is not None and (not bad or policy.id in bad):
            bad.append(policy.id)
            raise RuntimeError("CUDA error")

    world.trouble = broken
    found, said = go()
    (left_out,) = (a for a in found.anchors if a.reason)
    assert left_out.reason == "RuntimeError: CUDA error" and left_out.numbers == []
    assert found.agreement.n == 8 and any("left out: RuntimeError: CUDA error" in line for line in said)
    world.trouble = lambda on, policy, split: None
    found, _ = go()
    assert found.measured == 1 and found.agreement.n == 9

    def all_broken(on: str, policy: Policy | None, split: str) -> None:
        raise MemoryError

    world.trouble = all_broken
    with pytest.raises(SpecError, match=r"0 anchors could be measured, at least 6 are needed.*MemoryError"):
        go(examples=20)


def test_other_weights_or_data_are_another_calibration(world: Fakes) -> None:
    found, _ = go()
    keys = pairs.Pair.find("model").keys(running.make_task("data.jsonl").fingerprint)
    store = Store()
    it = store.calibration(*keys)
    assert it is not None and it.id == found.row.id
    file = Path("model/model.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert store.calibration(*pairs.Pair.find("model").keys(keys[2])) is None
    assert go()[0].row.id != found.row.id


def prepared(**options: object) -> tuple[object, str]:
    spec = SearchSpec(model="model", data="data.jsonl", max_tflops=100, examples=16, **options)  # type: ignore[arg-type]
    setting = running.prepare(spec)
    return setting.screen, " ".join(setting.notes)


def test_a_search_on_the_model_uses_what_is_stored(world: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    screen, notes = prepared(evaluate_on="full")
    assert screen is None and "autotc calibrate" in notes and not Path("autotc.db").exists()
    assert prepared(evaluate_on="proxy") == (None, prepared(evaluate_on="proxy")[1])
    assert "calibrate, with" not in prepared(evaluate_on="proxy")[1]
    found, _ = go(24)
    screen, notes = prepared(evaluate_on="full")
    assert found.agreement.screens and isinstance(screen, Screen)
    assert (screen.on, screen.model, screen.line) == (PROXY, "model", found.agreement.line)
    assert screen.evaluator(2).on == PROXY
    assert "Proposals are screened on the proxy" in notes and found.agreement.equal_cost.text in notes
    weak = {**found.agreement.as_dict(), "equal_cost": {"rho": 0.7, "low": 0.25, "high": 0.9}}
    Store().finish_calibration(found.row.id, weak)
    screen, notes = prepared(evaluate_on="full")
    assert screen is None and "Screening is off" in notes and "0.70 [0.25, 0.90]" in notes


def test_the_command_prints_a_table_and_one_sentence(world: Fakes, monkeypatch, capsys) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["autotc", "calibrate", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
            raise SystemExit(0)
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    words = ("--model", "model", "--data", "data.jsonl", "--anchors", "9", "--examples", "18")
    code, out, err = run(*words)
    assert code == 0 and "anchor 9/9" in err
    assert "random" in out and "Spearman's rho" in out and "On your model and data the proxy orders" in out
    code, out, err = run(*words, "--json")
    document = json.loads(out)
    assert code == 0 and document["n"] == 9 and len(document["anchors"]) == 9 and document["measured"] == 0
    assert {"overall", "equal_cost", "line", "verdict", "model_fingerprint", "proxy", "finished"} <= set(
        document
    )
    code, _, err = run("--model", "qwen2.5-vl", "--data", "data.jsonl")
    assert code == 2 and "no weights of Qwen/Qwen2.5-VL-7B-Instruct on this machine" in err
    code, _, err = run("--model", "model", "--data", "data.jsonl", "--device", "gpu")
    assert code == 2 and "--device: 'gpu' is not known" in err


def test_a_family_without_a_proxy_is_refused(world: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "proxy_folder", lambda family: None)
    with pytest.raises(ModelError, match="no proxy ships for the family qwen2_5_vl"):
        go()
