"""`autotc dashboard`: what it starts, and what it refuses."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from autotc.cli.dashboard import prepare
from autotc.errors import SpecError, StoreError
from autotc.store import Store
from autotc.store.reader import Reader
from autotc.store.sample import fill


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def flags(command: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in zip(command[6::2], command[7::2], strict=True):
        found.setdefault(name, []).append(value)
    return found


def test_it_listens_on_this_machine_only_and_reports_to_nobody(tmp_path: Path) -> None:
    port = free_port()
    command, environment = prepare(f"sqlite:///{tmp_path}/a.db", "127.0.0.1", port, None, [])
    given = flags(command)
    assert given["--server.address"] == ["127.0.0.1"]
    assert given["--server.port"] == [str(port)]
    assert given["--browser.gatherUsageStats"] == ["false"]
    assert set(given["--server.allowedHosts"]) == {"localhost", "127.0.0.1", "::1"}
    assert environment["AUTOTC_STORAGE"].endswith("/a.db")
    assert not (tmp_path / "a.db").exists()


def test_a_password_in_the_address_stays_out_of_the_command_line() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError) as error:
        prepare("postgresql://me:topsecret@127.0.0.1:1/none", "127.0.0.1", free_port(), None, [])
    assert "topsecret" not in str(error.value)


def test_another_address_needs_a_password(tmp_path: Path) -> None:
    url, port = f"sqlite:///{tmp_path}/a.db", free_port()
    with pytest.raises(SpecError, match=r"--password-file FILE, or leave --host out and use ssh -L"):
        prepare(url, "0.0.0.0", port, None, [])
    secret = tmp_path / "secret"
    with pytest.raises(SpecError, match="cannot be read"):
        prepare(url, "0.0.0.0", port, secret, [])
    secret.write_text("short\n")
    with pytest.raises(SpecError, match="at least 8 characters"):
        prepare(url, "0.0.0.0", port, secret, [])
    secret.write_text("correct horse\n")
    command, environment = prepare(url, "0.0.0.0", port, secret, ["lab.example.org"])
    assert environment["AUTOTC_PASSWORD_FILE"] == str(secret.resolve())
    assert "correct horse" not in " ".join(command)
    hosts = flags(command)["--server.allowedHosts"]
    assert "lab.example.org" in hosts
    assert not {"*", "0.0.0.0"} & set(hosts)


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SpecError, match=f"--port: 127.0.0.1:{port} cannot be used"):
            prepare(f"sqlite:///{tmp_path}/a.db", "127.0.0.1", port, None, [])


def test_the_reader_cannot_write_and_sees_what_others_write(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    reader = Reader(url)
    assert reader.versions() == {}
    assert not (tmp_path / "a.db").exists()
    (name,) = fill(url, [6])
    before = reader.versions()
    assert list(before) == [name]
    with pytest.raises(StoreError, match="cannot be written"):
        reader.set_study_state(name, "finished")
    store = Store(url)
    running = next(t for t in store.trials(name) if t.state == "running")
    assert [w.number for w in reader.work()] == [running.number]
    store.finish_trial(running.id, "failed", reason="no reason")
    assert reader.versions() != before
    assert reader.work() == []


def test_glances_are_the_completed_trials_of_each_study(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    names = fill(url, [8, 8])
    store, glances = Store(url), Reader(url).glances()
    for name in names:
        rows = store.trials(name, role="trial", state="complete")
        assert [g.number for g in glances[name]] == [r.number for r in rows]
        for glance, row in zip(glances[name], rows, strict=True):
            assert glance.costs["tflops_exact"] == row.costs["tflops_exact"]
            assert {q[0]: q[1] for q in glance.qualities} == {
                n.split: n.value for n in row.numbers if n.name == "quality"
            }
