"""What the card says: memory, energy, clocks and who else is on it, through NVML, by the card's UUID.

A number that the driver does not give is None with a reason, never 0. Nothing here imports torch at the top; NVML is
asked in this process, so call it in the process that does the work.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any

from autotc.errors import UnsupportedError

INTERVAL_S = 0.005
WINDOW_S = 1.0  # energy counters step every 10 to 100 ms
MOST_WATTS = 20_000.0  # a mean beyond it is no reading but a counter that started again
_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
_DISTURBING = 0x8 | 0x20 | 0x40 | 0x80  # a card at its power limit is at work; a hot one is not comparable


def uuid_of(device: int = 0) -> str:
    """Return the UUID of a CUDA device as NVML knows it: of the card, or of the MIG slice this process was given."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if device < len(visible) and visible[device].strip().startswith("MIG-"):
        return visible[device].strip()
    import torch

    text = str(torch.cuda.get_device_properties(device).uuid)
    return text if text.startswith(("GPU-", "MIG-")) else f"GPU-{text}"


@dataclass(frozen=True)
class Reading:
    """One number of the card.

    Args:
        value: None where it is unknown.
        method: how it was taken, or why it is unknown.
    """

    value: float | None
    method: str


@dataclass(frozen=True)
class State:
    """The card at one moment; None where the driver does not say."""

    used_bytes: int | None
    process: Reading
    others: tuple[int, ...]
    clock_mhz: int | None
    temperature_c: int | None
    reasons: int | None


def cards() -> list[str]:
    """Return the names of this machine's cards; none where there is no NVIDIA driver."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver, or one that does not answer
        return []
    try:
        return [
            str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(i)))
            for i in range(pynvml.nvmlDeviceGetCount())
        ]
    finally:
        pynvml.nvmlShutdown()


class Card:
    """A card, or a slice of one, as NVML shows it.

    Args:
        uuid: GPU-... or MIG-...

    Raises:
        UnsupportedError: the card cannot be asked; one line says why and what that means.
    """

    def __init__(self, uuid: str) -> None:
        try:
            import pynvml
        except ModuleNotFoundError as error:
            raise _unknown("nvidia-ml-py is not installed; pip install nvidia-ml-py") from error
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        except pynvml.NVMLError as error:
            raise _unknown(_why(pynvml, error, uuid)) from error
        self.uuid, self.mig = uuid, uuid.startswith("MIG-")
        self._pid = os.getpid()

    def about(self) -> dict[str, Any]:
        """Return name, UUID, driver, and whether the card is a slice or cut into slices."""
        nvml = self._nvml
        mode = self._ask(nvml.nvmlDeviceGetMigMode, self._handle)
        name = self._ask(nvml.nvmlDeviceGetName, self._handle)
        driver = self._ask(nvml.nvmlSystemGetDriverVersion)
        cut = self.mig or bool(mode and mode[0])
        return {"name": name, "uuid": self.uuid, "driver": driver, "mig": cut}

    def state(self) -> State:
        """Return memory, processes, clocks, temperature and throttle reasons now.

        Raises:
            UnsupportedError: the card fell off the bus.
        """
        nvml, handle = self._nvml, self._handle
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        there = self._ask(nvml.nvmlDeviceGetComputeRunningProcesses, handle)
        mine = None if there is None else next((p for p in there if p.pid == self._pid), None)
        if there is None:
            process = Reading(None, "unknown: the driver does not list processes here")
        elif mine is None:
            process = Reading(
                None, "unknown: the driver lists no process with this id (another pid namespace?)"
            )
        elif mine.usedGpuMemory is None:
            process = Reading(None, "unknown: the driver lists this process without its memory")
        else:
            process = Reading(mine.usedGpuMemory, "process, NVML")
        return State(
            used_bytes=None if memory is None else int(memory.used),
            process=process,
            others=tuple(sorted(p.pid for p in there or () if p.pid != self._pid)),
            clock_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
            temperature_c=self._ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            reasons=self._ask(nvml.nvmlDeviceGetCurrentClocksEventReasons, handle),
        )

    def energy_mj(self) -> int | None:
        """Return the board's energy counter, mJ since the driver was loaded; None on a MIG slice or where not kept."""
        return None if self.mig else self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption, self._handle)

    def _ask(self, question: Callable[..., Any], *args: Any) -> Any:
        """Ask; what this card or this user cannot have is None, a lost card is an error."""
        nvml = self._nvml
        try:
            return question(*args)
        except nvml.NVMLLibraryMismatchError:  # a driver from before this question, by another class
            return None
        except nvml.NVMLError as error:
            if error.value in (
                nvml.NVML_ERROR_NOT_SUPPORTED,
                nvml.NVML_ERROR_NO_PERMISSION,
                nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
                nvml.NVML_ERROR_INVALID_ARGUMENT,
            ):
                return None
            raise _unknown(_why(nvml, error, self.uuid)) from error


def _unknown(reason: str) -> UnsupportedError:
    return UnsupportedError(f"NVML: {reason}; memory and energy of this card stay unknown")


def _why(nvml: Any, error: Any, uuid: str) -> str:
    """Say in one line what an NVML error means here."""
    known = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "libnvidia-ml.so.1 was not found: no NVIDIA driver on this machine",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the driver was updated and not reloaded: reboot, or reload it",
        nvml.NVML_ERROR_FUNCTION_NOT_FOUND: "the driver is too old for this nvidia-ml-py; update the driver",
        nvml.NVML_ERROR_NO_PERMISSION: "no permission to ask this card",
        nvml.NVML_ERROR_NOT_FOUND: f"no card {uuid} (a MIG slice has a UUID of its own, MIG-...)",
        nvml.NVML_ERROR_INVALID_ARGUMENT: f"no card {uuid} (a MIG slice has a UUID of its own, MIG-...)",
        nvml.NVML_ERROR_GPU_IS_LOST: "the card is lost: it fell off the bus or needs a reset",
        nvml.NVML_ERROR_RESET_REQUIRED: "the card needs a reset",
    }
    return known.get(error.value, str(error))


@dataclass
class Observation:
    """What was seen while something ran.

    Args:
        seconds: how long.
        samples: how often the card was asked.
        before_bytes: used on the whole card when it began.
        device_peak_bytes: most used on the whole card, everybody's.
        process_peak_bytes: most used by this process; None where unknown.
        process_method: how, or why it is unknown.
        energy_j: of the whole board; None where unknown.
        energy_method: how, or why it is unknown.
        clock_mhz: lowest and highest seen.
        temperature_c: highest seen.
        throttled: reasons seen.
        others: process ids of others on the card.
        error: why asking ended early, None when it did not.
    """

    seconds: float = 0.0
    samples: int = 0
    before_bytes: int | None = None
    device_peak_bytes: int | None = None
    process_peak_bytes: int | None = None
    process_method: str = "unknown: never asked"
    energy_j: float | None = None
    energy_method: str = "unknown: never asked"
    clock_mhz: tuple[int, int] | None = None
    temperature_c: int | None = None
    throttled: list[str] = field(default_factory=list)
    others: list[int] = field(default_factory=list)
    error: str | None = None
    disturbing: list[str] = field(default_factory=list)

    @property
    def disturbed(self) -> list[str]:
        """Why the figures are not to be compared with undisturbed ones; empty when they are."""
        found = [f"slowed down: {reason}" for reason in self.disturbing]
        if self.others:
            found.append(f"{len(self.others)} other process{'es' * (len(self.others) > 1)} on the card")
        if self.error is not None:
            found.append(self.error)
        return found

    def peak(self, torch_peak_bytes: int | None = None) -> Reading:
        """Return the peak memory of this process and how it was found.

        The process's own bytes where the driver gives them (they are sampled: torch's exact peak is a floor); else
        the growth of the card, where nobody else is on it; else unknown.
        """
        if self.process_peak_bytes is not None:
            floor = torch_peak_bytes or 0
            method = self.process_method
            if floor > self.process_peak_bytes:
                method = "torch's own peak (above NVML's samples; without the context)"
            return Reading(max(self.process_peak_bytes, floor), method)
        known = self.device_peak_bytes is not None and self.before_bytes is not None
        if known and not self.others:
            grown = (self.device_peak_bytes or 0) - (self.before_bytes or 0)
            return Reading(
                grown, f"growth of the card's used memory, nobody else on it ({self.process_method})"
            )
        return Reading(None, self.process_method)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        data = asdict(self)
        del data["disturbing"]
        return {**data, "disturbed": self.disturbed}


class Watch:
    """Samples a card in a thread until the block ends; the result is `observation`.

    Args:
        card: the card.
        interval_s: between samples.
    """

    def __init__(self, card: Card, interval_s: float = INTERVAL_S) -> None:
        self.observation = Observation()
        self._card, self._interval = card, interval_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="autotc-nvml", daemon=True)
        self._energy: int | None = None
        self._begin = 0.0

    def __enter__(self) -> Watch:
        first = self._card.state()
        self.observation.before_bytes = first.used_bytes
        self._take(first)
        self._energy, self._begin = self._card.energy_mj(), time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        seen = self.observation
        seen.seconds = time.monotonic() - self._begin
        if seen.error is not None:
            seen.energy_method = f"unknown: {seen.error}"
            return
        try:
            self._take(self._card.state())
            found = energy_j(self._energy, self._card.energy_mj(), seen.seconds, self._card.mig)
            seen.energy_j, seen.energy_method = found.value, found.method
        except UnsupportedError as lost:
            seen.error = str(lost)

    def _run(self) -> None:
        while not self._over.wait(self._interval):
            try:
                self._take(self._card.state())
            except UnsupportedError as error:
                self.observation.error = str(error)
                return

    def _take(self, now: State) -> None:
        seen = self.observation
        seen.samples += 1
        seen.device_peak_bytes = _most(seen.device_peak_bytes, now.used_bytes)
        if now.process.value is not None or seen.process_peak_bytes is None:
            seen.process_method = now.process.method
        if now.process.value is not None:
            seen.process_peak_bytes = _most(seen.process_peak_bytes, int(now.process.value))
        if now.clock_mhz is not None:
            low, high = seen.clock_mhz or (now.clock_mhz, now.clock_mhz)
            seen.clock_mhz = min(low, now.clock_mhz), max(high, now.clock_mhz)
        seen.temperature_c = _most(seen.temperature_c, now.temperature_c)
        seen.others = sorted({*seen.others, *now.others})
        for bit, reason in _REASONS.items():
            if (now.reasons or 0) & bit and reason not in seen.throttled:
                seen.throttled.append(reason)
                if bit & _DISTURBING:
                    seen.disturbing.append(reason)


def _most(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else max(a, b)


def energy_j(before_mj: int | None, after_mj: int | None, seconds: float, mig: bool = False) -> Reading:
    """Return the joules between two readings of a board's 64-bit counter, which may have wrapped."""
    if mig:
        return Reading(None, "unknown: a MIG slice; the counter is the whole board's")
    if before_mj is None or after_mj is None:
        return Reading(None, "unknown: this card keeps no energy counter for this user")
    joules = ((after_mj - before_mj) % 2**64) / 1e3
    if joules > MOST_WATTS * max(seconds, 0.1):
        return Reading(None, "unknown: the energy counter started again")
    return Reading(joules, "board counter, NVML")


def energy_of(
    card: Card, work: Callable[[], Any], finish: Callable[[], Any], idle_w: float | None
) -> Reading:
    """Return the joules of one piece of work above idle: it is repeated for at least a second.

    Args:
        card: the board it runs on.
        work: starts it.
        finish: waits until all of it is done.
        idle_w: of the board, from `idle_watts`; None: nothing is known of it, and so of the energy.
    """
    if idle_w is None:
        return Reading(None, "unknown: this card keeps no energy counter for this user")
    times, seconds, spent = _repeated(card, work, finish)
    if spent.value is None:
        return spent
    each = (spent.value - idle_w * seconds) / times
    return Reading(
        each, f"board counter, NVML, {times} runs in {seconds:.1f} s, idle of {idle_w:.0f} W taken off"
    )


def mean_watts(card: Card, work: Callable[[], Any], finish: Callable[[], Any]) -> float | None:
    """Return the board's mean power while work is repeated for at least a second, idle included; None where unknown."""
    _, seconds, spent = _repeated(card, work, finish)
    return None if spent.value is None else spent.value / seconds


def _repeated(card: Card, work: Callable[[], Any], finish: Callable[[], Any]) -> tuple[int, float, Reading]:
    """Repeat work for at least a window; return how often, the seconds and the joules."""
    times, begin, before = 0, time.monotonic(), card.energy_mj()
    while time.monotonic() - begin < WINDOW_S:
        work()
        finish()
        times += 1
    seconds = time.monotonic() - begin
    return times, seconds, energy_j(before, card.energy_mj(), seconds, card.mig)


def idle_watts(card: Card, seconds: float = WINDOW_S) -> float | None:
    """Return the board's mean power while nothing runs, from its energy counter; None where unknown."""
    before, begin = card.energy_mj(), time.monotonic()
    time.sleep(seconds)
    lasted = time.monotonic() - begin
    spent = energy_j(before, card.energy_mj(), lasted, card.mig)
    return None if spent.value is None else spent.value / lasted
