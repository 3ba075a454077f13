"""`dashboard`: the pages in a browser."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import webbrowser
from importlib import util
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from autotc.cli.options import Json, Storage, print_json, say
from autotc.errors import SpecError

DASHBOARD_EXAMPLES = """**Examples**

`autotc dashboard` -- the database of this folder, on this machine only

`autotc dashboard --storage postgresql://team@db/autotc --port 8600`

`ssh -L 8501:localhost:8501 machine` -- from elsewhere; nothing has to be opened to the network

`autotc dashboard --host 0.0.0.0 --password-file secret.txt --allowed-host lab.example.org` -- for colleagues
"""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SHORTEST = 8  # characters of a password


def dashboard(
    storage: Storage = None,
    host: Annotated[
        str,
        typer.Option("--host", help="Address to listen on; others than this machine's own need a password."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 8501,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", help="Ask visitors for the password in this file.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", help="A name visitors may type in the address bar (repeatable)."),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser window.")] = True,
) -> None:
    """Browse studies and fronts, choose a policy, download it; reads the database while searches write it."""
    command, environment = prepare(storage, host, port, password_file, allowed_host or [])
    local = "localhost" if host in ("0.0.0.0", "::") or _loopback(host) else host
    address = f"http://{local}:{port}"
    say(f"Dashboard: {address}  (Ctrl-C ends it)")
    if not _loopback(host):
        say("The password travels unencrypted: put a proxy with TLS in front, or use ssh -L instead.")
    with subprocess.Popen(command, env=environment) as server:
        try:
            if browser and sys.stdout.isatty():
                webbrowser.open(address)
            code = server.wait()
        except KeyboardInterrupt:
            server.terminate()
            code = 0
    if code:
        raise typer.Exit(1)


def prepare(
    storage: str | None, host: str, port: int, password_file: Path | None, allowed: list[str]
) -> tuple[list[str], dict[str, str]]:
    """Return the server's command and environment; the database's address, which may hold a password, is in the latter.

    Raises:
        SpecError: no password for an address that others reach, a password that is no good, a port that is taken, or
            Streamlit is missing.
        StoreError: the database cannot be used.
    """
    from autotc.store.reader import Reader

    if util.find_spec("streamlit") is None:
        raise SpecError("autotc dashboard: Streamlit is missing. Install it: pip install 'autotc[dashboard]'")
    app = util.find_spec("dashboard.app")
    if app is None or app.origin is None:
        raise SpecError(
            "autotc dashboard: its pages are missing from this installation; install autotc again"
        )
    if not _loopback(host) and password_file is None:
        raise SpecError(
            f"--host: {host} can be reached by others: give --password-file FILE, or leave --host out and use "
            f"ssh -L {port}:localhost:{port}"
        )
    reader = Reader(storage)
    if not reader.exists():
        say(f"{reader.url_shown} holds no study yet; the pages fill when a search starts.")
    environment = {**os.environ, "AUTOTC_STORAGE": reader.url}
    reader.close()
    environment.pop("AUTOTC_PASSWORD_FILE", None)
    if password_file is not None:
        environment["AUTOTC_PASSWORD_FILE"] = str(_checked(password_file).resolve())
    _free(host, port)
    hosts = list(LOOPBACK)
    if not _loopback(host):
        hosts += [h for h in (host, socket.gethostname()) if h not in ("0.0.0.0", "::")]
    options = {
        "server.address": host,
        "server.port": str(port),
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "server.enableXsrfProtection": "true",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "viewer",
        "client.showErrorDetails": "none",
        "theme.light.primaryColor": "#0072B2",
        "theme.dark.primaryColor": "#1F83C4",
        "theme.showWidgetBorder": "true",
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    flags += [word for name in (*hosts, *allowed) for word in ("--server.allowedHosts", name)]
    return [sys.executable, "-P", "-m", "dashboard", "run", app.origin, *flags], environment


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _checked(file: Path) -> Path:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"--password-file: {file}: cannot be read: {error}") from error
    if len(text) < SHORTEST:
        raise SpecError(f"--password-file: {file}: a password of at least {SHORTEST} characters is needed")
    return file


def _free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SpecError(
                f"--port: {host}:{port} cannot be used: {error.strerror or error}; name another"
            ) from error


def bench_dashboard(
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timed runs of each warm step.")] = 5,
    browser: Annotated[
        bool,
        typer.Option(
            "--browser",
            help="As a visitor sees it: the real server and the system's Chromium (takes a minute).",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Time the dashboard's pages on 10,000 made-up trials in 20 studies.

    Without --browser the pages' scripts are run as the server runs them. With it, seconds are from typing the address
    to the page drawn, and from a key on the slider to the answer. Run it on a machine that does nothing else: the
    load is reported, and seconds grow with it.
    """
    from importlib import import_module

    result = import_module("dashboard.browser_bench" if browser else "dashboard.bench").run(repeats)
    if as_json:
        print_json(result)
        return
    load = f"load {result['load_before']:.1f} before and {result['load_after']:.1f} after, {result['cores']} cores"
    typer.echo(f"{result['trials']:,} trials in {result['studies']} studies; {load}")
    for step in result["steps"]:
        bar = "" if step["bar_seconds"] is None else f"   (bar {step['bar_seconds']:g} s)"
        parts = [f"processor {step['cpu_seconds']:7.3f} s"] if "cpu_seconds" in step else []
        if step.get("megabytes"):
            parts += [
                f"of these {step['script_seconds']:.2f} s in scripts, {step['megabytes']:.1f} MB loaded"
            ]
        typer.echo(", ".join((f"{step['step']:28} {step['seconds']:7.3f} s", *parts)) + bar)
