"""`autotc eval` on the proxy that ships, with few examples: what it prints is what its document holds."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from autotc import cli
from autotc.policy import load_policy
from autotc.tables.figures import hidden, written_freely
from autotc.tasks.scenes import Scenes
from autotc.verify import measure

POLICY = {
    "schema": "autotc/policy/1",
    "model": {"family": "qwen2_5_vl", "decoder_layers": 28, "vision_blocks": 32},
    "stages": [{"site": "input", "reducer": "downsample", "keep": 0.1}],
}


@pytest.mark.slow
def test_eval_tells_what_the_average_hides(tmp_path, monkeypatch, capsys) -> None:
    file = tmp_path / "p.json"
    file.write_text(json.dumps(POLICY))
    words = (
        "eval",
        "--model",
        "qwen2.5-vl",
        "--policy",
        str(file),
        "--examples",
        "90",
        "--free-running",
        "20",
    )
    monkeypatch.setattr(sys, "argv", ["autotc", *words, "--json"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
        raise SystemExit(0)
    assert not stop.value.code
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    numbers = {n["name"]: n for n in document["metrics"]}
    found = document["breakdown"]
    assert sum(g["n"] for g in found["groups"]) == 90
    changed = found["flips"]["wrong_to_right"] - found["flips"]["right_to_wrong"]
    assert changed == round(90 * document["difference"]["value"]) and changed < 0
    worst = found["worst"]
    assert worst["group"] == found["groups"][0]["group"] and worst["drop"] > -document["difference"]["value"]
    assert (numbers["worst_group_drop"]["value"], numbers["worst_group_drop"]["n"]) == (
        worst["drop"],
        worst["n"],
    )
    assert found["next_question"]["quality"]["value"] == numbers["next_question"]["value"]
    lengths = {g["group"]: g["n"] for g in found["answer_length"]}
    assert lengths == {"one word": 81, "several words": 9}  # the tag is read in a tenth of the questions
    assert numbers["free_running"]["n"] == 20 and numbers["free_running"]["unit"] == "accuracy"
    assert numbers["free_running"]["value"] == document["free_running"]["correct"]["value"] < 1
    assert document["free_running"]["same"]["value"] <= document["free_running"]["forced"]["value"]
    own = {n["name"]: n["value"] for n in document["uncompressed"]}
    assert own["worst_group_drop"] == 0 and own["free_running"] >= numbers["free_running"]["value"]


@pytest.mark.slow
def test_the_lines_of_eval_say_the_same_as_its_figures(tmp_path) -> None:
    measured = measure("qwen2.5-vl", load_policy(POLICY), Scenes(), "selection", 90, free_running=20)
    assert measured.written is not None and measured.hidden.worst is not None
    lines = hidden(measured.hidden)
    flips = measured.hidden.flips
    assert lines[0].startswith(
        f"flips: {flips.right_to_wrong} right to wrong, {flips.wrong_to_right} wrong to right"
    )
    group, drop, stderr, n = measured.hidden.worst
    assert lines[1] == (
        f"worst question group: {group}, {-100 * drop:+.1f} ± {100 * (stderr or 0):.1f} points to uncompressed "
        f"(n {n}), the lowest of 10"
    )
    assert lines[2].startswith("next question on the same cache: ") and lines[2].endswith("(n 90)")
    assert [line.split(":")[0] for line in lines[3:]] == [
        f"answers of {g.group}" for g in measured.hidden.answer_length
    ]
    assert written_freely(measured.written).startswith(
        f"written freely, n 20: {100 * measured.written.correct.mean():.1f} "
    )
