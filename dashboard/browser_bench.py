"""How long a visitor waits: the real server and a real browser on 10,000 trials."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from autotc.errors import SpecError
from autotc.store.sample import fill
from dashboard.bench import BARS, STUDIES, TRIALS, load

START_S = 120.0  # a busy machine starts slowly
OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
TABLE, PLOT = '[data-testid="stDataFrame"] canvas', ".js-plotly-plot .points path"
VALUE = "element => element.getAttribute('aria-valuenow') ?? element.value"
SAID = "document.querySelector('[data-testid=stMain]').innerText.includes(text)"


def run(repeats: int = 5) -> dict[str, Any]:
    """Return seconds from typing an address to the page drawn, and from a key on the slider to the answer.

    Pages are opened by new visitors, whose browsers have nothing in their caches, and again by a visitor who was there
    before. All but the cold steps are medians.

    Returns:
        As `bench.run`, without processor seconds; "script_seconds" are those the browser spent in the page's scripts,
        "megabytes" what it loaded.

    Raises:
        SpecError: Playwright or Chromium is missing.
    """
    chromium = (
        os.environ.get("AUTOTC_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError as error:
        raise SpecError("--browser: Playwright is missing: pip install playwright") from error
    if chromium is None:
        raise SpecError(
            "--browser: Chromium is missing: apt-get install chromium, or its path in AUTOTC_CHROMIUM"
        )
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/autotc.db"
        newest = fill(url, [TRIALS] * STUDIES)[-1]
        with _server(url, Path(folder)) as address, sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=list(OPTIONS))
            front = f"{address}/front?study={newest}"
            steps = []
            for page, place, drawn in (("first page", address, TABLE), ("front page", front, PLOT)):
                steps.append(_step(f"{page}, cold", [_visit(_visitor(browser), place, drawn)]))
                others = [_visit(_visitor(browser), place, drawn) for _ in range(repeats)]
                steps.append(_step(f"{page}, warm", others))
                visitor = _visitor(browser)
                _visit(visitor, place, drawn)
                again = [_visit(visitor, place, drawn) for _ in range(repeats)]
                steps.append(_step(f"{page}, same visitor", again))
            steps.append(_step("moving the budget slider", _slide(browser, front, repeats)))
            browser.close()
    return {"studies": STUDIES, "trials": STUDIES * TRIALS, **load(before), "steps": steps}


@contextmanager
def _server(url: str, folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["dashboard", "--storage", url, "--port", str(port), "--no-browser"]
    address, log = f"http://127.0.0.1:{port}", folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", "from autotc.cli import main; main()", *words], stdout=out, stderr=out
        )
        try:
            until = time.monotonic() + START_S
            while True:
                try:
                    urllib.request.urlopen(f"{address}/_stcore/health", timeout=5).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > until:
                        raise SpecError(f"--browser: the server did not start: {log.read_text()}") from None
                    time.sleep(0.1)
            yield address
        finally:
            process.terminate()
            process.wait(30)


def _visitor(browser: Any) -> Any:
    """Return a visitor whose browser has nothing in its cache."""
    return browser.new_context(viewport={"width": 1280, "height": 800})


def _visit(visitor: Any, address: str, drawn: str) -> tuple[float, float, float]:
    """Open a page; return seconds until it is drawn, seconds in scripts, and megabytes loaded."""
    page = visitor.new_page()
    page.set_default_timeout(1000 * START_S)
    counters = visitor.new_cdp_session(page)
    loaded: list[float] = []
    counters.on("Network.loadingFinished", lambda event: loaded.append(event["encodedDataLength"]))
    counters.send("Network.enable")
    counters.send("Performance.enable")
    begin = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_selector(drawn, state="attached")
    seconds = time.perf_counter() - begin
    metrics = {m["name"]: m["value"] for m in counters.send("Performance.getMetrics")["metrics"]}
    page.close()
    return seconds, metrics["ScriptDuration"], sum(loaded) / 1e6


def _slide(browser: Any, address: str, repeats: int) -> list[tuple[float, float, float]]:
    """Move the slider by a key, often; return the seconds until the page names the new budget."""
    page = _visitor(browser).new_page()
    page.set_default_timeout(1000 * START_S)
    page.goto(address, wait_until="commit")
    page.wait_for_selector(PLOT, state="attached")
    slider = page.get_by_role("slider").first
    found = []
    for _ in range(repeats):
        limit = int(float(slider.evaluate(VALUE))) - 1
        begin = time.perf_counter()
        slider.press("ArrowLeft")
        page.wait_for_function(f"text => {SAID}", arg=f" at {limit:,} is ")
        found.append((time.perf_counter() - begin, 0.0, 0.0))
        page.wait_for_timeout(500)
    page.context.close()
    return found


def _step(step: str, found: list[tuple[float, float, float]]) -> dict[str, Any]:
    seconds, script, megabytes = np.median(np.array(found), axis=0).tolist()
    return {
        "step": step,
        "seconds": seconds,
        "script_seconds": script,
        "megabytes": megabytes,
        "bar_seconds": BARS.get(step),
        "repeats": len(found),
    }
