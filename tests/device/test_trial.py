"""Measured trials and device tables with the small proxy on the CPU: the same code as on a GPU, never called one."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from autotc import measure
from autotc.adapter import anatomy
from autotc.cli import app, gpu
from autotc.cost import schedule
from autotc.device import speed, table, trial
from autotc.device.building import from_numbers, prompt
from autotc.device.clock import Times
from autotc.device.timing import Table, predict
from autotc.errors import SpecError, UnsupportedError
from autotc.kernels import bench, dispatch
from autotc.policy import Number
from autotc.processing import load_model
from autotc.proxies import proxy_folder
from autotc.workload import Request
from tests.anyres_fixtures import anyres_folder
from tests.apply import tiny
from tests.evaluate_fixtures import internvl_folder, picture

TILED = [internvl_folder, partial(anyres_folder, "llava_next"), partial(anyres_folder, "llava_onevision")]
SMALL = Request(width=56, height=56, prompt_tokens=8, new_tokens=3)
on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is wanted")


def test_a_trial_runs_in_a_process_of_its_own_and_says_where() -> None:
    found = trial.measure(str(proxy_folder("qwen2_5_vl")), None, [SMALL, SMALL], device="cpu", repeats=3)
    numbers = {n["name"]: Number(**n) for n in found["numbers"]}
    assert set(numbers) == {
        "latency_ms", "latency_ms_p10", "latency_ms_p90", "decode_ms_per_token", "end_to_end_ms"
    }  # fmt: skip
    assert all(n.kind == "measured" and n.value > 0 and n.n for n in numbers.values())
    assert numbers["latency_ms_p10"].value <= numbers["latency_ms"].value <= numbers["latency_ms_p90"].value
    assert found["operations"] == "reference: the tensor is on cpu, not on an NVIDIA GPU"
    assert found["device"] == "cpu" and found["card"] is None and found["out_of_memory"] is None


@on_cpu
def test_without_a_gpu_nothing_is_measured_in_its_place() -> None:
    with pytest.raises(UnsupportedError, match="torch sees no NVIDIA GPU"):
        trial.measure("qwen2.5-vl", None, [SMALL], device="cuda:0")


def test_an_out_of_memory_error_tells_the_need() -> None:
    text = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.1 GiB"
    assert trial._need(text, torch.device("cpu"))["asked_gib"] == 2.5
    assert trial._need("Tried to allocate 512.00 MiB.", torch.device("cpu"))["asked_gib"] == 0.5
    assert trial._need("something else", torch.device("cpu"))["asked_gib"] is None


def test_times_are_ordered_and_their_error_is_that_of_a_median() -> None:
    times = Times(tuple(float(i) for i in range(1, 22)))
    assert (times.median, times.p10, times.p90) == (11.0, 3.0, 19.0)
    assert Times((1.0, 2.0)).median == 1.5
    draws = torch.randn(400, 101, generator=torch.Generator().manual_seed(0)).sort(1).values
    spread = float(draws[:, 50].std())
    mean = sum(Times(tuple(row)).stderr for row in draws.tolist()) / len(draws)
    assert mean == pytest.approx(spread, rel=0.15)  # 400 draws tell a standard deviation to 4 %


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "llava"])
def test_a_model_is_built_from_its_numbers(kind: str) -> None:
    config = tiny.model(kind).config.to_dict()
    model = from_numbers(config, torch.device("cpu"), torch.bfloat16)
    assert model.dtype == torch.bfloat16 and not model.training
    assert model.config._attn_implementation == "sdpa"
    inputs = prompt(
        model, anatomy(model), [Request(width=24, height=24, prompt_tokens=9)], torch.device("cpu")
    )
    with torch.inference_mode():
        assert model.generate(**inputs, max_new_tokens=2, min_new_tokens=2, pad_token_id=0).shape[1] > 2


@pytest.mark.parametrize(
    "kind", ["qwen2_5_vl", "llava", "qwen3_vl", "internvl", "llava_next", "llava_onevision"]
)
def test_prompts_fit_their_model(kind: str) -> None:
    model = tiny.model(kind)
    numbers = anatomy(model)
    requests = [Request(width=24, height=24, prompt_tokens=9), Request(width=70, height=20, prompt_tokens=5)]
    inputs = prompt(model, numbers, requests, torch.device("cpu"))
    expected = [numbers.visual_tokens(r.width, r.height) for r in requests]
    assert (inputs["input_ids"] == tiny.IMAGE).sum(1).tolist() == expected
    lengths = [n + r.prompt_tokens for n, r in zip(expected, requests, strict=True)]
    assert inputs["attention_mask"].sum(1).tolist() == lengths
    with torch.inference_mode():
        assert model(**inputs).logits.isfinite().all()


@pytest.mark.parametrize("folder", TILED)
def test_tiled_prompts_have_the_layout_of_the_family_s_processor(folder: Callable[[], Path]) -> None:
    """Images of these sizes through the image processor of the folder give tensors of the same names and shapes."""
    model, processor = load_model(folder())
    sizes = [(84, 84), (150, 60), (40, 170)]
    theirs = processor.inputs([[picture(i, *size)] for i, size in enumerate(sizes)], ["left ?"] * len(sizes))
    requests = [Request(width=w, height=h, prompt_tokens=9) for w, h in sizes]
    mine = prompt(model, anatomy(str(folder())), requests, torch.device("cpu"))
    assert set(mine) == set(theirs) - {"batch_num_images"}
    assert mine["pixel_values"].shape == theirs["pixel_values"].shape
    if "image_sizes" in theirs:
        assert mine["image_sizes"].tolist() == theirs["image_sizes"].tolist()
        unused = theirs["pixel_values"].abs().amax((2, 3, 4)) == 0  # tiles that only make up the batch
        assert unused.any() and torch.equal(mine["pixel_values"].abs().amax((2, 3, 4)) == 0, unused)
    image = model.config.image_token_id
    assert torch.equal((mine["input_ids"] == image).sum(1), (theirs["input_ids"] == image).sum(1))


def test_several_images_of_a_prompt_are_not_cut_where_the_family_does_not() -> None:
    model = tiny.model("llava_onevision")
    numbers, pair = anatomy(model), Request(images=2, width=70, height=20, prompt_tokens=9)
    inputs = prompt(model, numbers, [pair, Request(width=70, height=20)], torch.device("cpu"))
    assert inputs["batch_num_images"].tolist() == [2, 1]
    assert (inputs["input_ids"][0] == tiny.IMAGE).sum() == 2 * numbers.visual_tokens(70, 20, 2)
    with torch.inference_mode():
        assert model(**inputs).logits.isfinite().all()


@pytest.mark.parametrize("folder", TILED)
def test_tiled_families_are_measured(folder: Callable[[], Path]) -> None:
    """A trial with a policy, and a table, of a model that cuts images into tiles."""
    model, on = table.random_model(str(folder()), torch.device("cpu"), torch.float32)
    numbers = anatomy(model)
    cut = tiny.policy(model, {"site": "decoder", "layer": 2, "reducer": "fastv", "keep": 0.25})
    request = Request(width=150, height=60, prompt_tokens=9, new_tokens=2)
    order = {"model": str(folder()), "policy": cut.model_dump(mode="json", by_alias=True, exclude_none=True)}
    order |= {"requests": [asdict(request)] * 2, "device": "cpu", "repeats": 3, "energy": False}
    found = trial._child(order)
    assert {n["name"] for n in found["numbers"]} > {"latency_ms", "end_to_end_ms"}
    small = {**table.SMALL, "images": (32, 150)}
    entry = table.measure(model, on, torch.device("cpu"), repeats=3, **small)
    tokens = {
        numbers.image.views(side, side).tiles * math.prod(numbers.image.grid(side, side))
        for side in (32, 150)
    }
    assert {point[0] for point in entry["tower_ms"]} == tokens
    data = table.started({}, "cpu", 2.0**34, torch.device("cpu"), None)
    data["models"][numbers.id] = entry
    plan = schedule(None, numbers, numbers.image.views(150, 150))
    largest = {point[1]: point[2] for point in entry["tower_ms"] if point[0] == max(tokens)}
    assert Table(numbers, data).tower_ms(plan, 2) == pytest.approx(largest[2])


def test_a_table_is_measured_read_and_predicts_its_own_points(tmp_path: Path) -> None:
    folder = str(proxy_folder("qwen2_5_vl"))
    model, on = table.random_model(folder, torch.device("cpu"), torch.float32)
    entry = table.measure(model, on, torch.device("cpu"), repeats=3, **table.SMALL)
    numbers = anatomy(model)
    entry |= {"choose_ms": {"uniform": 0.5}, "choose_at": {"tokens": 16, "batch": 1}}
    data = table.started({}, "cpu (not a GPU)", 2.0**34, torch.device("cpu"), None)
    data["models"][numbers.id] = entry
    path = tmp_path / "cpu.json"
    path.write_text(json.dumps(data))
    timing = Table.read(path, numbers)
    for n, b, ms in entry["layer_ms"]:
        assert timing.layer_ms(n, b) == pytest.approx(ms)
    found = predict(timing, numbers, None, SMALL, 2)
    assert found.kind == "measured" and found.prefill_ms > found.choose_ms == 0.0
    assert found.memory_bytes > sum(p.numel() * 4 for p in model.parameters())
    again = table.started(data, "cpu (not a GPU)", 2.0**34, torch.device("cpu"), None)
    assert again["models"] == data["models"]
    with pytest.raises(SpecError, match="no measurements of"):
        Table.read(path, anatomy("llava-1.5-7b"))
    path.write_text("{}")
    with pytest.raises(SpecError, match="schema"):
        Table.read(path, numbers)


def test_results_are_replaced_and_not_repeated() -> None:
    one = bench.Result(
        "gather_rows", "wide", "float32", "cuda", 1.0, 0.9, 1.1, "copy bandwidth", 0.8, "", "A", "2", "t"
    )
    other = bench.Result(
        "gather_rows", "wide", "float32", "cuda", 2.0, 1.9, 2.1, "copy bandwidth", 0.4, "", "B", "2", "t"
    )
    first = bench.table([one])
    both = bench.table([other], first)
    again = bench.table([one], both)
    rows = list(csv.DictReader(io.StringIO(again)))
    assert sorted((row["gpu"], row["median_ms"]) for row in rows) == [("A", "1.0"), ("B", "2.0")]


def run(*words: str) -> tuple[int, Any, str]:
    done = CliRunner().invoke(app, ["bench", *words, "--json"])
    if done.exit_code:
        return done.exit_code, None, str(done.exception)
    return 0, json.loads(done.stdout), done.stderr


@on_cpu
def test_commands_refuse_without_a_gpu() -> None:
    for command in ("kernels", "apply", "device"):
        code, _, message = run(command)
        assert code != 0 and "sees no NVIDIA GPU" in message and "Nothing was measured" in message


def test_bench_kernels_on_a_cpu_has_no_cuda_figures() -> None:
    code, found, _ = run("kernels", "--device", "cpu", "--operation", "gather_rows", "--repeats", "3")
    assert code == 0 and found["gpu"] == "cpu (not a GPU)"
    assert {r["provider"] for r in found["results"]} == {"cuda", "reference"}
    assert all(r["median_ms"] is None for r in found["results"] if r["provider"] == "cuda")
    assert run("kernels", "--device", "cpu", "--operation", "gather")[0] != 0


class Board:
    """A card as the driver shows it."""

    def __init__(self, others: tuple[int, ...] = (), mig: bool = False) -> None:
        self._others, self._mig = others, mig

    def state(self) -> Any:
        return SimpleNamespace(others=self._others)

    def about(self) -> dict[str, Any]:
        return {"mig": self._mig}


@pytest.mark.parametrize(
    ("board", "lines"),
    [
        (Board(), []),
        (
            Board((4242,)),
            ["1 other process on the card: times and memory here are not those of the card alone"],
        ),
        (Board(mig=True), ["a MIG slice: times and memory are the slice's, and its energy stays unknown"]),
    ],
)
def test_a_measurement_on_a_shared_or_sliced_card_is_marked(
    board: Board, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "_card", lambda device: board)
    said: list[str] = []
    monkeypatch.setattr(gpu, "say", said.append)
    assert gpu.conditions(torch.device("cpu"))["disturbed"] == said == lines


@pytest.mark.parametrize("reason", ["CuPy is not installed", "CuPy is built for CUDA 12, torch for CUDA 13"])
def test_a_measurement_says_when_the_reference_stood_in(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """Never a silent fallback: the line is printed, and kept with the figures."""
    said: list[str] = []
    monkeypatch.setattr(gpu, "say", said.append)
    monkeypatch.setattr(gpu, "_card", lambda device: None)
    monkeypatch.setattr(dispatch, "chooser", lambda device: f"reference: {reason}")
    found = gpu.conditions(torch.device("cuda"))
    assert found == {"operations": f"reference: {reason}", "disturbed": []}
    assert said == [f"times of choosing are of plain PyTorch, not of the CUDA operations ({reason})"]


def test_a_card_that_nvml_cannot_ask_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(uuid: str) -> Any:
        raise UnsupportedError(
            "NVML: no permission to ask this card; memory and energy of this card stay unknown"
        )

    said: list[str] = []
    monkeypatch.setattr(gpu, "say", said.append)
    monkeypatch.setattr(measure, "Card", refuse)
    monkeypatch.setattr(measure, "uuid_of", lambda index: "GPU-1")
    assert gpu._card(torch.device("cuda", 0)) is None
    assert len(said) == 1 and "no permission" in said[0] and "stay unknown" in said[0]
    assert trial._card(torch.device("cuda", 0)) == (None, said[0])


def test_batches_are_answered_simulated_and_stored(tmp_path: Path) -> None:
    out = tmp_path / "serving.json"
    words = ("--device", "cpu", "--out", str(out), "--repeats", "3")
    code, _, message = run("serving", "--check", *words)
    assert code and "no table of cpu (not a GPU)" in message and "autotc bench device" in message
    model, on = table.random_model(str(proxy_folder("qwen2_5_vl")), torch.device("cpu"), torch.float32)
    data = table.started({}, "cpu (not a GPU)", 2.0**34, torch.device("cpu"), None)
    entry = table.measure(model, on, torch.device("cpu"), repeats=3, **table.SMALL)
    data["models"][anatomy(model).id] = entry
    (tmp_path / "cpu-not-a-gpu.json").write_text(json.dumps(data))
    code, found, _ = run("serving", "--check", *words)  # finds the table beside --out
    assert code == 0 and json.loads(out.read_text()) == found
    assert [row["batch"] for row in found["rows"] if row["policy"] == "uncompressed"] == [1, 2]
    assert found["bar"] == 0.1 and len({row["policy"] for row in found["rows"]}) == 3
    for row in found["rows"]:
        seen, expected = row["measured"], row["simulated"]["requests_per_s"]
        assert seen["p10"] <= seen["requests_per_s"] <= seen["p90"] and seen["n"] >= 3
        assert row["error"] == pytest.approx(expected / seen["requests_per_s"] - 1)
    assert found["met"] == (max(abs(row["error"]) for row in found["rows"]) <= 0.1)
    assert run("serving", "--out", str(out))[0] and run("serving", "--table", "auto")[0]


def test_a_run_that_was_cut_short_goes_on_and_a_finished_one_is_measured_anew(tmp_path: Path) -> None:
    model, device = tiny.model("qwen2_5_vl"), torch.device("cpu")
    cut = tiny.policy(model, {"site": "decoder", "layer": 2, "reducer": "fastv", "keep": 0.25})
    request = Request(width=24, height=24, prompt_tokens=9, new_tokens=2)

    def rows(known: list[dict[str, Any]]) -> list[dict[str, Any]]:
        batches = (16, 1)
        return list(
            speed.compare(model, "tiny", [("a cut", cut)], request, batches, device, repeats=3, known=known)
        )

    whole = rows([])
    order = [(b, p) for b in ("1", "ragged", "16") for p in ("uncompressed", "a cut")]
    assert [(row["batch"], row["policy"]) for row in whole] == order and not any(
        "error" in row for row in whole
    )
    mark = {**whole[0], "prefill": {**whole[0]["prefill"], "median_ms": 12345.0}}
    failed = {"batch": "1", "policy": "a cut", "error": "RuntimeError: it was cut short"}
    again = rows([mark, failed])
    assert again[0] == mark and [(row["batch"], row["policy"]) for row in again] == order
    assert again[1]["prefill_speedup"] == pytest.approx(12345.0 / again[1]["prefill"]["median_ms"])

    out, asked = tmp_path / "apply.json", {"gpu": "A", "batches": [1]}
    assert gpu.unfinished(out, asked) == []
    gpu.keep(out, {**asked, "finished": False, "rows": [mark]})
    assert gpu.unfinished(out, asked) == json.loads(json.dumps([mark]))
    assert gpu.unfinished(out, {**asked, "gpu": "B"}) == []
    gpu.keep(out, {**asked, "finished": True, "rows": [mark]})
    assert gpu.unfinished(out, asked) == []


def test_bench_serving_names_what_it_rests_on() -> None:
    code, found, _ = run("serving", "--gpu-hour-price", "2.5", "--requests", "60")
    (row,) = found["rows"]
    assert code == 0 and row["kind"] == "simulated" and row["rests_on"].startswith("estimated times")
    assert row["cost_per_million"] == pytest.approx(2.5 / 3600 / row["requests_per_s"] * 1e6)


def test_the_environment_is_left_alone() -> None:
    before = dict(os.environ)
    run("serving", "--requests", "60")
    assert dict(os.environ) == before
