"""Training on a model small enough for a test: it learns, stops, and goes on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from autotc.proxies import data, schedule
from autotc.proxies.muon import Muon, orthogonalise
from autotc.proxies.runner import Options, launch
from autotc.proxies.train_qwen2_5_vl import Trainer

SIZES = {"layers": 2, "width": 40, "heads": 2, "tower_width": 32, "blocks": 2}


@pytest.fixture
def small_views(monkeypatch):
    """Shrink the batches and take one thread: the schedule stays, the work becomes small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    stages = tuple(
        replace(stage, views=(schedule.View(112, 112, 4, (2, 4)),), shares=(1.0,))
        for stage in schedule.STAGES
    )
    monkeypatch.setattr(schedule, "STAGES", stages)
    yield
    torch.set_num_threads(threads)


def test_training_learns_and_resumes(tmp_path, small_views, monkeypatch):
    monkeypatch.setattr(schedule, "rate_at", lambda *_: 1.0)
    options = Options(
        tmp_path, steps=40, processes=1, compile=False, sizes=SIZES, lr=5e-3, validate_every=1e9
    )
    trainer = Trainer(options)
    losses = [trainer.train_step()["dense"] for _ in range(30)]
    assert np.mean(losses[-5:]) < 0.98 * np.mean(losses[:5]) and trainer.images == 120
    trainer.save()

    launch(Trainer, replace(options, resume=True))
    lines = [json.loads(line) for line in (tmp_path / "train.log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 40 and any("eta_min" in line for line in lines)
    done = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert done["counters"]["step"] == 40 and done["counters"]["images"] == 160
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_an_interrupted_run_takes_the_same_steps(tmp_path, small_views):
    """Six steps at once, or three, a checkpoint and three more: the same weights."""
    options = Options(tmp_path, steps=8, processes=1, compile=False, sizes=SIZES)
    whole = Trainer(options)
    for _ in range(6):
        whole.train_step()
    part = Trainer(options)
    for _ in range(3):
        part.train_step()
    part.save()
    rest = Trainer(options)
    rest.load()
    for _ in range(3):
        rest.train_step()
    for a, b in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_labels_of_a_batch():
    batch = data.make_batch(range(4), "test", 168)
    asked = batch.targets != data.IGNORE
    assert torch.equal(asked, batch.weights > 0)
    # An answer token that is predicted at one place is the input of the next.
    inside = asked[..., :-1] & asked[..., 1:]
    assert torch.equal(batch.targets[..., :-1][inside], batch.tokens[..., 1:][inside])
    assert batch.dense.shape == (4, 144, 4)
    assert (batch.dense.amax((0, 1)) < torch.tensor(data.DENSE)).all()


def test_schedule_ends_at_zero_and_drops_in_measure():
    assert schedule.rate_at(0.3, 500, 500) == 1 and schedule.rate_at(1.0, 500, 500) == 0
    assert [schedule.stage_at(p).name for p in (0, 0.1, 1)] == ["tower", "small", "mixed"]
    keep, late = schedule.draw_keep(4000, 10, np.random.default_rng(0))
    assert keep.shape == (2, 4000, 10) and 8 <= late < 12
    assert 0.07 < (~keep[0]).any(-1).float().mean() < 0.13
    assert not (keep[1] & ~keep[0]).any()


def test_muon_orthogonalises():
    torch.manual_seed(0)
    out = orthogonalise(torch.randn(2, 24, 16))
    values = torch.linalg.svdvals(out)
    assert values.min() > 0.5 and values.max() < 1.4
    weight = torch.nn.Parameter(torch.zeros(4, 8))
    weight.grad = torch.randn(4, 8)
    Muon([weight], lr=0.1).step()
    assert torch.linalg.matrix_rank(weight) == 4
