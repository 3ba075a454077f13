"""The real pynvml over a stub of the driver's library: what a card can refuse, lose or not know."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autotc import measure
from autotc.measure import Observation, energy_j, energy_of, mean_watts

HERE = Path(__file__).parent
COMPILER = os.environ.get("CC") or shutil.which("gcc")
GIB = 2**30
SCRIPT = """
import json, sys, time
from autotc.errors import UnsupportedError
from autotc.measure import Card, Watch
try:
    card = Card(sys.argv[1])
    with Watch(card) as watch:
        while watch.observation.samples < 6 and watch.observation.error is None:
            time.sleep(0.01)
    seen = watch.observation
    peak = seen.peak(6 * 2**30)
    print(json.dumps({"about": card.about(), "peak": [peak.value, peak.method], **seen.as_dict()}))
except UnsupportedError as error:
    print(json.dumps({"refused": str(error)}))
assert "torch" not in sys.modules
"""


@pytest.fixture(scope="session")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


def build(folder: Path, *options: str) -> Path:
    if COMPILER is None:
        pytest.skip("no C compiler to build the stub with")
    target = folder / "libnvidia-ml.so.1"
    command = [COMPILER, "-shared", "-fPIC", "-O1", *options, "-o", str(target), str(HERE / "nvml_stub.c")]
    subprocess.run(command, check=True)
    return folder


def ask(folder: Path | None, case: str, uuid: str = "GPU-1") -> dict[str, Any]:
    environment = {**os.environ, "STUB_NVML": case, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    if folder is not None:
        environment["LD_LIBRARY_PATH"] = str(folder)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, uuid], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_healthy_card(stub: Path) -> None:
    seen = ask(stub, "")
    assert seen["about"] == {"name": "Stub H0", "uuid": "GPU-1", "driver": "600.1", "mig": False}
    assert seen["peak"] == [7 * GIB, "process, NVML"]  # the short peak was sampled
    assert seen["device_peak_bytes"] == 8 * GIB and seen["before_bytes"] == GIB
    assert seen["energy_j"] == 50.0 and seen["clock_mhz"] == [1980, 1980] and seen["temperature_c"] == 61
    assert seen["throttled"] == ["power cap"] and seen["disturbed"] == []
    assert seen["samples"] >= 5


@pytest.mark.parametrize(
    ("case", "uuid", "words"),
    [
        ("no device", "GPU-1", "the NVIDIA driver is not loaded"),
        ("updated driver", "GPU-1", "the driver was updated and not reloaded"),
        ("no permission to open", "GPU-1", "no permission to ask this card"),
        ("", "GPU-2", "no card GPU-2"),
    ],
)
def test_a_card_that_cannot_be_asked(stub: Path, case: str, uuid: str, words: str) -> None:
    refused = ask(stub, case, uuid)["refused"]
    assert words in refused and "stay unknown" in refused and "\n" not in refused


def test_no_driver_at_all(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")  # also where the machine has a driver
    assert "no NVIDIA driver" in ask(tmp_path, "")["refused"]


def test_a_driver_too_old(tmp_path: Path) -> None:
    seen = ask(build(tmp_path, "-DOLD_DRIVER"), "")
    assert seen["process_peak_bytes"] is None and "does not list processes" in seen["process_method"]


def test_a_card_that_is_lost_half_way(stub: Path) -> None:
    seen = ask(stub, "lost")
    assert "the card is lost" in seen["error"] and seen["disturbed"] == [seen["error"]]
    assert seen["energy_j"] is None


def test_permission_denied_is_unknown_and_not_zero(stub: Path) -> None:
    seen = ask(stub, "no permission")
    assert seen["process_peak_bytes"] is None and seen["energy_j"] is None
    assert seen["energy_method"].startswith("unknown")
    # nobody is known to be there, so the card's growth stands in, and says so
    assert seen["peak"][0] == 7 * GIB and seen["peak"][1].startswith("growth of the card")


def test_a_wrong_process_id_is_absence_and_somebody_else(stub: Path) -> None:
    seen = ask(stub, "wrong process id")
    assert seen["process_peak_bytes"] is None and seen["others"] == [999999]
    assert seen["peak"][0] is None and "no process with this id" in seen["peak"][1]


def test_a_process_without_its_memory(stub: Path) -> None:
    seen = ask(stub, "no memory of processes")
    assert seen["process_peak_bytes"] is None and "without its memory" in seen["process_method"]
    assert seen["peak"][0] == 7 * GIB and seen["peak"][1].startswith("growth")


def test_a_shared_card_is_marked(stub: Path) -> None:
    seen = ask(stub, "shared")
    assert seen["others"] == [4242] and seen["disturbed"] == ["1 other process on the card"]
    assert seen["peak"] == [7 * GIB, "process, NVML"]


def test_a_hot_card_is_marked(stub: Path) -> None:
    assert ask(stub, "hot")["disturbed"] == ["slowed down: hardware thermal slowdown"]


def test_a_mig_slice_has_memory_but_no_energy(stub: Path) -> None:
    seen = ask(stub, "", "MIG-1")
    assert seen["about"]["mig"] and seen["peak"][0] == 7 * GIB
    assert seen["energy_j"] is None and "MIG" in seen["energy_method"]
    assert seen["clock_mhz"] is None and seen["temperature_c"] is None


def test_the_energy_counter_may_wrap_but_not_restart(stub: Path) -> None:
    assert ask(stub, "counter wraps")["energy_j"] == pytest.approx(50.0)
    restarted = ask(stub, "counter restarts")
    assert restarted["energy_j"] is None and "started again" in restarted["energy_method"]
    assert energy_j(None, 5, 1.0).value is None
    assert energy_j(1000, 3500, 1.0).value == 2.5


def test_torchs_peak_is_a_floor_for_the_samples() -> None:
    seen = Observation(process_peak_bytes=5 * GIB, process_method="process, NVML")
    assert seen.peak(6 * GIB).value == 6 * GIB and "torch" in seen.peak(6 * GIB).method
    assert Observation().peak().value is None


class Board:
    """A card whose counter grows by 300 J a second of the clock it is given."""

    mig = False

    def __init__(self, clock: list[float]) -> None:
        self._clock = clock

    def energy_mj(self) -> int:
        return int(300e3 * self._clock[0])


def test_energy_of_work_is_above_idle_and_over_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, runs = [0.0], []
    monkeypatch.setattr(measure.time, "monotonic", lambda: clock[0])

    def work() -> None:
        runs.append(1)
        clock[0] += 0.25

    board: Any = Board(clock)
    spent = energy_of(board, work, lambda: None, idle_w=100.0)
    assert len(runs) == 4 and spent.value == pytest.approx((300 - 100) * 0.25)
    assert mean_watts(board, work, lambda: None) == pytest.approx(300.0)
    assert energy_of(board, work, lambda: None, idle_w=None).value is None
