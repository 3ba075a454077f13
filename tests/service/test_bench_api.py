"""`autotc bench api`: a service of its own under a short load, and clients whose answers are known."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from autotc.cli import app
from autotc.errors import AutotcError
from autotc.service import load, page

RATE, SECONDS = 20, 1
MADE_UP: dict[str, Any] = {
    "trials": 100,
    "rate": 50.0,
    "seconds": 2.0,
    "requests": 100,
    "errors": 0,
    "first_errors": [],
    "p50_s": 0.02,
    "p99_s": 0.151,
    "worst_s": 0.3,
    "bar_s": load.BAR_S,
    "first_s": 1.25,
    "server_cpu_s": 0.0042,
    "environment": {"autotc": "0.1.0", "python": "3.12.4", "cpu": "a processor", "cores": 2},
    "load": {"before": [0.5, 0.4, 0.3], "after": [1.5, 0.9, 0.5]},
    "paths": [{"path": "/healthz", "requests": 100, "p50_s": 0.004, "p99_s": 0.0402}],
}


def bench(*options: str) -> Result:
    return CliRunner().invoke(app, ["bench", "api", *options])


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """One real run: the service is a process of its own, as for a user."""
    out = tmp_path_factory.mktemp("bench-api")
    options = ["--trials", "100", "--seconds", str(SECONDS), "--rate", str(RATE), "--out", str(out)]
    return bench(*options, "--json"), out


def test_every_request_is_answered_and_counted(ran: tuple[Result, Path]) -> None:
    result, _ = ran
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["trials"], found["rate"], found["seconds"]) == (100, RATE, SECONDS)
    assert found["requests"] == RATE * SECONDS and found["errors"] == 0 and found["first_errors"] == []
    # a third of the cycle of 60 requests is sent: ten kinds twice, which are six paths without their limits
    assert {p["path"].replace("qwen2.5-vl-0000", "STUDY"): p["requests"] for p in found["paths"]} == {
        "/healthz": 2,
        "/v1/jobs": 2,
        "/v1/jobs/100": 4,
        "/v1/studies": 2,
        "/v1/studies/STUDY/front": 6,
        "/v1/studies/STUDY/policy": 4,
    }
    assert 0 < found["p50_s"] <= found["p99_s"] <= found["worst_s"] and found["first_s"] > 0
    assert found["bar_s"] == 0.15 and len(found["load"]["after"]) == 3
    if sys.platform == "linux":
        assert found["server_cpu_s"] >= 0


def test_json_and_a_page_are_written_and_messages_keep_out_of_the_document(ran: tuple[Result, Path]) -> None:
    result, out = ran
    assert json.loads((out / "api.json").read_text()) == json.loads(result.stdout)
    assert "writing 100 trials" in result.stderr and "20 requests a second for 1 s" in result.stderr
    text = (out / "README.md").read_text()
    assert "## HTTP, 20 requests a second for 1 s" in text and "20 requests, 0 errors" in text


def test_what_the_command_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def made_up(trials: int, seconds: float, rate: float, say: Any) -> dict[str, Any]:
        asked.append((trials, seconds, rate))
        return {**MADE_UP, "rate": rate}

    monkeypatch.setattr(load, "run", made_up)
    result = bench("--seconds", "2")
    assert result.exit_code == 0 and asked == [(10_000, 2.0, 50.0)]
    lines = result.stdout.splitlines()
    assert lines[0] == "100 requests at 50 a second, 0 errors; load average 0.5 before, 1.5 after"
    assert lines[1].startswith(
        "p50 20.0 ms, p99 151.0 ms (bar 150.0 ms, missed), worst 300.0 ms; slowest first"
    )
    assert lines[2] == "4.2 ms of processor time a request"
    assert lines[-1].split() == ["/healthz", "100", "p50", "4.0", "ms,", "p99", "40.2", "ms"]
    monkeypatch.setitem(MADE_UP, "p99_s", 0.15)
    assert "(bar 150.0 ms)" in bench().stdout  # at the bar it holds


def test_errors_end_the_command_with_1_and_are_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {**MADE_UP, "errors": 2, "first_errors": ["/healthz: 503", "/v1/jobs: 500"]}
    monkeypatch.setattr(load, "run", lambda *given: failed)
    for options in ((), ("--json",)):
        result = bench(*options)
        assert result.exit_code == 1 and "the first errors: /healthz: 503; /v1/jobs: 500" in result.stderr
    assert json.loads(result.stdout)["errors"] == 2


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--trials", "99", "greater than or equal to 100"),
        ("--seconds", "0.5", "greater than or equal to 1 "),
        ("--rate", "0", "greater than or equal to 0.1 "),
        ("--rate", "fast", "unable to parse string as a number"),
    ],
)
def test_numbers_that_cannot_be_used_are_refused(option: str, value: str, says: str) -> None:
    result = bench(option, value)
    said = " ".join(result.stderr.replace("│", " ").split()) + " "
    assert result.exit_code == 2 and f"'{option}'" in said and says in said


# --- the clients ---


class Pretender(BaseHTTPRequestHandler):
    """Answers by the path: /ok, /slow (after a while), /wrong (500), /gone (hangs up)."""

    protocol_version = "HTTP/1.1"
    slow_s = 0.3
    tokens: list[str | None] = []

    def do_GET(self) -> None:
        """Answer."""
        self.tokens.append(self.headers["Authorization"])
        if self.path == "/gone":
            self.close_connection = True
            return
        if self.path == "/slow":
            time.sleep(self.slow_s)
        self.send_response(500 if self.path == "/wrong" else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *given: Any) -> None:
        """Say nothing."""


@contextmanager
def pretending() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pretender)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_is_no_200_is_an_error_and_what_gets_no_answer_has_no_time() -> None:
    Pretender.tokens.clear()
    with pretending() as port:
        paths = ["/ok?a", "/wrong", "/ok?b", "/gone", "/ok"]
        times, errors = load._drive(port, "secret", paths, 0.25, 200.0)
    assert {path: len(t) for path, t in times.items()} == {"/ok": 30, "/wrong": 10}
    assert sorted({e.partition(":")[0] for e in errors}) == ["/gone", "/wrong"] and len(errors) == 20
    assert errors.count("/wrong: 500") == 10
    assert set(Pretender.tokens) == {"Bearer secret"}


def test_times_run_from_when_a_request_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """One client, held up by its first request: the others wait, and that is their time too."""
    monkeypatch.setattr(load, "CLIENTS", 1)
    rate = 40.0
    with pretending() as port:
        times, errors = load._drive(port, "", ["/slow", "/ok", "/ok", "/ok"], 0.1, rate)
    assert errors == [] and len(times["/slow"]) == 1
    # none can be answered before the first is, which takes `slow_s` at least
    assert all(t >= Pretender.slow_s - i / rate for i, t in enumerate([*times["/slow"], *times["/ok"]]))


def test_a_fraction_of_a_request_is_one() -> None:
    with pretending() as port:
        times, errors = load._drive(port, "", ["/ok"], 1.0, 0.1)
    assert len(times["/ok"]) == 1 and errors == []


def test_a_service_that_answers_nothing_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def away(url: str, folder: Path) -> Iterator[tuple[int, int]]:
        with pretending() as port:
            yield port, 0

    monkeypatch.setattr(load, "_server", away)
    monkeypatch.setattr(load, "_paths", lambda study, job: ["/gone"])
    monkeypatch.setattr(load._Client, "get", _first_then(load._Client.get))
    with pytest.raises(AutotcError, match=r"answered none of 20 requests; the first: /gone: "):
        load.run(1, 0.2, 100.0, lambda text: None)


def _first_then(get: Any) -> Any:
    """The requests before the timetable are answered."""
    asked = iter([(0.0, 200)])
    return lambda self, path: next(asked, None) or get(self, path)


def test_a_service_that_does_not_start_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'StoreError: no room' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with (
        pytest.raises(AutotcError, match="autotc serve did not start: StoreError: no room"),
        load._server("sqlite://", tmp_path),
    ):
        raise AssertionError


# --- the page ---


def test_the_page_is_made_from_the_stored_json_alone(tmp_path: Path) -> None:
    page.write(tmp_path, "api", MADE_UP)
    written = (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").unlink()
    stored = json.loads((tmp_path / "api.json").read_text())
    page.write(tmp_path, "api", stored)
    assert (tmp_path / "README.md").read_text() == written
    assert (
        "100 requests, 0 errors, p50 20 ms, p99 151 ms (bar 150 missed; it is for 50 a second over 120 s), worst 300 "
        "ms, 4.2 ms of the server's processor time each." in written
    )
    assert "| `/healthz` | 100 | 4.0 | 40 |" in written
    assert (
        "a study of 100 trials and 100 jobs" in written and "load average 0.5 before and 1.5 after" in written
    )
    page.write(tmp_path, "api", {**stored, "p99_s": 0.1, "server_cpu_s": None})
    text = (tmp_path / "README.md").read_text()
    assert "p99 100 ms (bar 150; it is for" in text and "processor time each" not in text
