"""The HTTP service under load: a server of its own, and clients that keep to a timetable whether it answers or not."""

from __future__ import annotations

import http.client
import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np

from autotc.environment import environment
from autotc.errors import AutotcError
from autotc.service import tokens
from autotc.store import Store
from autotc.store.sample import fill

CLIENTS = 32
FIRST_ERRORS = 5  # that a result quotes
START_S = 120.0
BAR_S = 0.15  # p99
LIMITS = (400, 500, 600, 700, 800, 900)


def run(trials: int, seconds: float, rate: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Read from a service over a study of `trials`, `rate` times a second; on this machine, over loopback.

    A request's time runs from when it was due, so that what waits behind a slow answer is slow too.

    Returns:
        {"trials", "rate", "seconds", "requests", "errors", "first_errors", "p50_s", "p99_s", "worst_s", "bar_s",
        "first_s", "server_cpu_s", "environment", "load", "paths": [{"path", "requests", "p50_s", "p99_s"}]}.
        `first_s` is the longest of the first requests after the start, one of each kind, which the others leave out;
        `server_cpu_s` the server's processor time a request, None where the system does not say.

    Raises:
        AutotcError: the service did not start, or answered nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/autotc.db")
        say(f"writing {trials:,} trials")
        (study, *_) = fill(store.url, [trials])
        for _ in range(100):
            job = store.add_job({"model": "qwen2.5-vl"})
            store.start_job(job.id, study)
        secret = tokens.create(store, "bench", ["read"])[1]
        before = os.getloadavg()
        with _server(store.url, Path(folder)) as (port, pid):
            paths = _paths(study, job.id)
            with closing(_Client(port, secret)) as client:
                first = max(client.get(path)[0] for path in dict.fromkeys(paths))
            say(f"{rate:g} requests a second for {seconds:g} s")
            used = _cpu_s(pid)
            times, errors = _drive(port, secret, paths, seconds, rate)
            used = None if used is None else (_cpu_s(pid) or 0.0) - used
        store.close()
    if not times:
        raise AutotcError(f"autotc serve answered none of {len(errors)} requests; the first: {errors[0]}")
    every = np.concatenate([np.array(t) for t in times.values()])
    return {
        "trials": trials,
        "rate": rate,
        "seconds": seconds,
        "requests": _count(seconds, rate),
        "errors": len(errors),
        "first_errors": errors[:FIRST_ERRORS],
        "p50_s": float(np.median(every)),
        "p99_s": float(np.quantile(every, 0.99)),
        "worst_s": float(every.max()),
        "bar_s": BAR_S,
        "first_s": first,
        "server_cpu_s": None if used is None else used / len(every),
        "environment": environment(),
        "load": {"before": before, "after": os.getloadavg()},
        "paths": [
            {
                "path": path,
                "requests": len(t),
                "p50_s": float(np.median(t)),
                "p99_s": float(np.quantile(t, 0.99)),
            }
            for path, t in sorted(times.items())
        ],
    }


def _paths(study: str, job: int) -> list[str]:
    """Return what is read, in the order in which it is."""
    front, policy = f"/v1/studies/{study}/front", f"/v1/studies/{study}/policy"
    found = []
    for limit in LIMITS:
        found += [
            f"/v1/jobs/{job}",
            front,
            "/v1/jobs",
            f"/v1/jobs/{job}",
            f"{front}?max_tflops={limit}",
            "/healthz",
        ]
        found += ["/v1/studies", f"{policy}?max_tflops={limit}", policy, f"{front}?with_references=true"]
    return found


@contextmanager
def _server(url: str, folder: Path) -> Iterator[tuple[int, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-c", "from autotc.cli import main; main()", "serve", "--port", str(port)]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([*command, "--storage", url], stderr=log) as server,
    ):
        try:
            _wait(port, server, folder / "log")
            yield port, server.pid
        finally:
            server.terminate()


def _cpu_s(pid: int) -> float | None:
    """Return the processor time that a process has taken, from Linux's table of processes."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def _wait(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        try:
            with closing(_Client(port, "")) as client:
                if client.get("/healthz")[1] == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise AutotcError(f"autotc serve did not start: {log.read_text(errors='replace')[-500:]}")


class _Client:
    """One connection that is kept open, and made again after it broke."""

    def __init__(self, port: int, secret: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = {"Authorization": f"Bearer {secret}"}

    def get(self, path: str) -> tuple[float, int]:
        """Return the seconds until the whole answer was there, and its status."""
        begin = time.perf_counter()
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        answer.read()
        return time.perf_counter() - begin, answer.status

    def close(self) -> None:
        """Close the connection; the next request makes another."""
        self._connection.close()


def _count(seconds: float, rate: float) -> int:
    """Return how many requests that is, one at least."""
    return math.ceil(seconds * rate)


def _drive(
    port: int, secret: str, paths: list[str], seconds: float, rate: float
) -> tuple[dict[str, list[float]], list[str]]:
    """Send requests at their times from a pool of clients; return times by path, and what was no 200 and why.

    What got no answer has no time.
    """
    waiting: Queue[tuple[str, float] | None] = Queue()
    times: dict[str, list[float]] = defaultdict(list)
    errors: list[str] = []

    def work() -> None:
        with closing(_Client(port, secret)) as client:
            while (given := waiting.get()) is not None:
                path, due = given
                try:
                    status = client.get(path)[1]
                except (OSError, http.client.HTTPException) as error:
                    errors.append(f"{path}: {error}")
                    client.close()
                    continue
                if status != 200:
                    errors.append(f"{path}: {status}")
                times[path.partition("?")[0]].append(time.perf_counter() - due)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(CLIENTS)]
    for worker in workers:
        worker.start()
    begin = time.perf_counter()
    for i in range(_count(seconds, rate)):
        due = begin + i / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        waiting.put((paths[i % len(paths)], due))
    for _ in workers:
        waiting.put(None)
    for worker in workers:
        worker.join()
    return times, errors
