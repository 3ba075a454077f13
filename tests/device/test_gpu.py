"""What only a card can show: a measured trial in its own process, through the driver, and work captured as a graph."""

from __future__ import annotations

import pytest
import torch

from autotc.adapter import anatomy
from autotc.device import trial
from autotc.device.building import random_model
from autotc.device.clock import timed
from autotc.proxies import proxy_folder
from autotc.workload import Request
from tests.apply import tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_a_trial_on_the_card_says_what_it_took_and_how_that_is_known() -> None:
    folder = str(proxy_folder("qwen2_5_vl"))
    model, _ = random_model(folder, torch.device("cpu"), torch.float32)
    cut = tiny.policy(model, {"site": "decoder", "layer": 2, "reducer": "fastv", "keep": 0.5})
    assert anatomy(model).decoder.layers > 2
    found = trial.measure(folder, cut, [Request(width=56, height=56, new_tokens=8)] * 4)
    numbers = {n["name"]: n for n in found["numbers"]}
    assert (
        numbers["latency_ms_p10"]["value"]
        <= numbers["latency_ms"]["value"]
        <= numbers["latency_ms_p90"]["value"]
    )
    assert numbers["torch_peak_gib"]["value"] > 0 and found["out_of_memory"] is None
    card = found["card"]
    if "unknown" in card:  # NVML cannot be asked here, and then nothing stands in for it
        assert "memory_gib" not in numbers and "stay unknown" in card["unknown"]
        return
    assert card["uuid"].startswith(("GPU-", "MIG-")) and card["samples"] >= 2
    known = "memory_gib" in numbers
    assert known != card["memory_method"].startswith("unknown")
    if known:  # the context alone is hundreds of MiB
        assert numbers["memory_gib"]["value"] > numbers["torch_peak_gib"]["value"]
    assert ("joules_per_request" in numbers) != found["energy_method"].startswith("unknown")


def test_work_behind_a_queue_takes_no_longer_than_with_its_launch() -> None:
    x = torch.randn(64, 64, device="cuda")
    device = torch.device("cuda")
    assert timed(lambda: x @ x, device, alone=True).median <= timed(lambda: x @ x, device).median
