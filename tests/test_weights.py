"""Fingerprints of weights, and where a model is run."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autotc.adapter import anatomy
from autotc.errors import ModelError, SpecError
from autotc.weights import PIECE_BYTES, PIECES, fingerprint, placement
from tests.evaluate_fixtures import qwen_folder
from tests.fakes import FULL

GIB = 2**30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(3 * PIECES * PIECE_BYTES))
    return tmp_path


def test_a_fingerprint_is_that_of_config_size_and_weights(folder: Path) -> None:
    first = fingerprint(folder)
    assert len(first) == 16 and fingerprint(folder) == first
    copy = folder.parent / f"{folder.name}-copy"
    shutil.copytree(folder, copy)
    assert fingerprint(copy) == first
    (copy / "config.json").write_text('{"a": 1}')
    assert fingerprint(copy) != first
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    for tuned in (slice(100, 101), slice(len(data) // 2, len(data) // 2 + 3 * PIECE_BYTES), slice(-1, None)):
        changed = bytearray(data)
        changed[tuned] = b"\1" * len(changed[tuned])
        file.write_bytes(changed)
        assert fingerprint(folder) != first, tuned
    file.write_bytes(data + b"\0")
    assert fingerprint(folder) != first
    file.write_bytes(data)
    assert fingerprint(folder) == first
    file.unlink()
    with pytest.raises(ModelError, match="no weights there"):
        fingerprint(folder)


def test_small_models_run_on_the_cpu_in_float32_one_process_a_core() -> None:
    tiny = qwen_folder()
    found = placement(tiny, anatomy(str(tiny)))
    assert found == {
        "device": "cpu",
        "dtype": "float32",
        "processes": min(4, os.cpu_count() or 1),
        "threads": 1,
    }


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Set the memory of this machine and of its GPUs."""

    def set_up(memory: float, *gpus: float) -> None:
        pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": int(memory * GIB) // 4096}
        monkeypatch.setattr(os, "sysconf", lambda name: pages[name])
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))

        class Properties:
            def __init__(self, device: torch.device) -> None:
                self.total_memory = int(gpus[device.index or 0] * GIB)

        monkeypatch.setattr(torch.cuda, "get_device_properties", Properties)

    return set_up


def large(folder: Path) -> Path:
    """A sparse file of 300 MiB: the size is what decides."""
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(300 << 20)
    return folder


def test_large_models_take_a_gpu_that_holds_them_else_what_the_memory_allows(folder: Path, machine) -> None:
    seven = replace(FULL, parameters=8_292_166_656)  # 15.4 GiB in bfloat16
    machine(64, 24.0)
    found = placement(large(folder), seven)
    assert (found["device"], found["dtype"], found["processes"]) == ("cuda", "bfloat16", 1)
    # prefills that are kept take a quarter of what the weights leave
    assert found["limit_bytes"] == pytest.approx((24 * GIB - 2 * seven.parameters) / 4, abs=1)
    machine(64, 16.0)
    found = placement(folder, seven)
    assert (found["device"], found["dtype"]) == ("cpu", "float32")
    machine(32)
    assert placement(folder, seven)["dtype"] == "bfloat16"
    machine(16)
    with pytest.raises(ModelError, match=r"take 15 GiB in bfloat16, a process may take 11 GiB"):
        placement(folder, seven)
    machine(64, 80.0, 24.0)
    assert placement(folder, seven, "cuda:1")["device"] == "cuda:1"
    assert placement(folder, seven, "cpu")["device"] == "cpu"
    assert placement(folder, seven, processes=4)["device"] == "cuda"
    with pytest.raises(ModelError, match=r"2 x 15 GiB of weights do not fit into the 24 GiB of cuda:1"):
        placement(folder, seven, "cuda:1", processes=2)


def test_devices_that_are_not_there_are_refused(folder: Path, machine) -> None:
    machine(64)
    with pytest.raises(SpecError, match="cuda is not here; PyTorch finds 0 CUDA devices"):
        placement(folder, FULL, "cuda")
    machine(64, 80.0)
    with pytest.raises(SpecError, match="cuda:1 is not here; PyTorch finds 1 CUDA devices"):
        placement(folder, FULL, "cuda:1")
    for name in ("gpu", "cuda1", ""):
        with pytest.raises(SpecError, match=r"is not known\. Use auto, cpu, cuda"):
            placement(folder, FULL, name)
