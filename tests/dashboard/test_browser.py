"""The real server in a real browser: click a point, move the budget, download, reload, go back; pictures of each page.

Needs the Chromium of the system (`apt-get install chromium`, or its path in AUTOTC_CHROMIUM). Screenshots go to the
folder in AUTOTC_SCREENSHOTS, where it is set.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autotc.export import front, members
from autotc.policy import load_policy
from autotc.recommend import recommend
from autotc.store import Store

CHROMIUM = os.environ.get("AUTOTC_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]
WAIT_MS = 1000 * float(os.environ.get("AUTOTC_BROWSER_WAIT_S", "60"))
STUDY = "qwen2.5-vl-0100"
PATHS = {
    "studies": "",
    "front": "front",
    "policy": "policy",
    "sees": "sees",
    "methods": "methods",
    "runs": "runs",
}


@pytest.fixture(scope="module")
def server(small: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["dashboard", "--storage", small, "--port", str(port), "--no-browser"]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", "from autotc.cli import main; main()", *words], stdout=out, stderr=out
        )
        url = f"http://127.0.0.1:{port}"
        try:
            until = time.monotonic() + WAIT_MS / 1000
            while True:
                try:
                    urllib.request.urlopen(f"{url}/_stcore/health", timeout=5).close()
                    break
                except OSError:
                    assert process.poll() is None and time.monotonic() < until, log.read_text()
                    time.sleep(0.2)
            yield url
        finally:
            process.terminate()  # Ctrl-C may be ignored by what runs in the background
            process.wait(30)
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        found = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield found
        found.close()


def opened(browser: Any, url: str, **options: Any) -> Any:
    page = browser.new_context(viewport={"width": 1280, "height": 800}, **options).new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(url, wait_until="commit", timeout=WAIT_MS)
    page.wait_for_selector("h1")
    return page


def settled(page: Any) -> None:
    """Wait until the server has nothing more to say."""
    page.wait_for_selector('[data-testid="stStatusWidget"]', state="detached")
    page.wait_for_function("!document.querySelector('[data-testid=stSkeleton]')")
    page.wait_for_timeout(600)


def selected(page: Any) -> str:
    """The trial that the page's card speaks of."""
    card = page.locator('[data-testid="stMarkdown"]', has_text=re.compile(r"trial \d+"))
    return re.findall(r"trial (\d+)", card.first.inner_text())[0]


def test_from_the_front_to_a_policy_and_back(browser: Any, server: str, small: str, tmp_path: Path) -> None:
    everything = members(Store(small), STUDY)
    on_front, split = front(everything, Store(small).study(STUDY).spec["max_tflops"])  # type: ignore[union-attr]
    best = str(recommend(on_front, split).member.trial)
    page = opened(browser, f"{server}/front?study={STUDY}")
    page.wait_for_selector(".js-plotly-plot .points path", state="attached")
    settled(page)
    assert selected(page) == best

    # a click on a point
    other = next(str(m.trial) for m in on_front if str(m.trial) != best)
    place = page.evaluate(
        """key => {
            const plot = document.querySelector('.js-plotly-plot');
            plot.scrollIntoView({block: 'center'});
            for (const trace of plot._fullData) {
                const i = (trace.customdata || []).findIndex(c => c[0] === key);
                if (i >= 0) {
                    const box = plot.querySelector('.nsewdrag').getBoundingClientRect();
                    const layout = plot._fullLayout;
                    return [box.x + layout.xaxis.l2p(trace.x[i]), box.y + layout.yaxis.l2p(trace.y[i])];
                }
            }
        }""",
        other,
    )
    page.mouse.move(*place)
    page.wait_for_selector(".js-plotly-plot .hovertext")  # a click before that finds no point
    page.mouse.click(*place)
    page.wait_for_url(re.compile(f"trial={other}(&|$)"))
    settled(page)
    assert selected(page) == other

    # what is downloaded is what is shown
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download policy.json").click()
    waiting.value.save_as(tmp_path / "policy.json")
    policy = load_policy(tmp_path / "policy.json")
    assert (policy.provenance["study"], str(policy.provenance["trial"])) == (STUDY, other)
    assert json.loads((tmp_path / "policy.json").read_text())["expected"]

    # a reload keeps the choice; another page takes it along; back brings it back
    page.reload(wait_until="commit")
    page.wait_for_selector(".js-plotly-plot .points path", state="attached")
    settled(page)
    assert selected(page) == other
    page.get_by_role("link", name="Look at it").click()
    page.wait_for_url(re.compile("/policy"))
    page.wait_for_selector("text=Tokens through the model")
    assert f"trial={other}" in page.url
    page.go_back()
    page.wait_for_url(re.compile("/front"))
    page.wait_for_selector(".js-plotly-plot .points path", state="attached")
    settled(page)
    assert selected(page) == other

    # the budget: its lower end leaves one policy
    page.get_by_role("slider").first.press("Home")
    page.wait_for_url(re.compile(r"budget=\d+"))
    page.wait_for_selector("text=/The (best policy|policy nearest to the constraints) at/")
    settled(page)
    limit = int(re.findall(r"budget=(\d+)", page.url)[0])
    found, split = front(everything, limit)
    assert len(found) < len(on_front)
    assert selected(page) == str(recommend(found, split).member.trial)
    page.context.close()


@pytest.mark.parametrize("mode", ["light", "dark", "phone"])
def test_each_page_draws_without_errors(browser: Any, server: str, tmp_path: Path, mode: str) -> None:
    folder = Path(os.environ.get("AUTOTC_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page = opened(browser, server, color_scheme="dark" if mode == "dark" else "light")
    if mode == "phone":
        page.set_viewport_size({"width": 390, "height": 844})
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    for name, path in PATHS.items():
        page.goto(f"{server}/{path}", wait_until="commit")
        page.wait_for_selector("h1")
        if name in ("front", "policy"):
            page.wait_for_selector(".js-plotly-plot .main-svg")
        settled(page)
        assert page.locator('[data-testid="stException"]').count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "scrolls sideways"
        page.screenshot(path=folder / f"{name}-{mode}.png", timeout=WAIT_MS)
    assert wrong == []
    page.context.close()


def test_a_foreign_host_name_gets_no_data(server: str) -> None:
    port = int(server.rsplit(":", 1)[1])
    ask = (
        "GET /_stcore/stream HTTP/1.1\r\nHost: evil.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    answers = {}
    for host in ("evil.example", f"127.0.0.1:{port}"):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as line:
            line.sendall(ask.replace("evil.example", host).encode())
            answers[host] = line.recv(200).split()[1]
    assert answers == {"evil.example": b"403", f"127.0.0.1:{port}": b"101"}
