"""The page of a study: complete, closed to the network, and not to be broken by names or holes in the data."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from autotc._outcomes import Outcomes
from autotc.errors import SpecError
from autotc.policy import load_policy
from autotc.report import read, render
from autotc.store import Store
from tests.report import made

VOID = {"meta", "br"}
HOSTILE = "</script><img src=x onerror=alert(1)>{{7*7}}\"'&"
SECTIONS = ["verdict", "front", "policy", "lost", "cost", "claims", "references", "trust", "reproduce", "use"]


class Page(HTMLParser):
    """Reads a page strictly: every element is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(f"sqlite:///{tmp_path}/autotc.db")
    found.upgrade()
    return found


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A finished study with everything, which tests only read."""
    found = Store(f"sqlite:///{tmp_path_factory.mktemp('standard')}/autotc.db")
    found.upgrade()
    made.make(found)
    return found


def page(store: Store, name: str = "study", **options: object) -> Page:
    return Page(render(read(store, name, **options)))  # type: ignore[arg-type]


def test_it_says_everything_in_order(standard: Store) -> None:
    report = read(standard, "study")
    found = Page(render(report))
    assert [a["id"] for a in found.of("section")] == SECTIONS
    chosen = report.recommended
    assert chosen is not None and report.losses is not None
    number = chosen.member.number("quality", "held-out")
    assert number is not None
    assert f"{100 * number.value:.1f} ± {100 * (number.stderr or 0):.1f} %" in found.text
    assert f"on {number.n} held-out examples" in found.text
    assert f"{chosen.cost:,.0f} TFLOP per 1,000 requests as executed" in found.text
    assert "limit 800" in found.text
    assert "looked at once" in found.text
    assert all(label in found.text for label in ("uncompressed", "random", "downsample", "divprune"))
    drop = report.losses.groups[0].drop
    assert f"[{-100 * drop.high:+.1f}, {-100 * drop.low:+.1f}]".replace("-", "−") in found.text


def test_it_recommends_what_export_would(standard: Store) -> None:
    for best in ("quality", "cheapest"):
        report = read(standard, "study", best=best)
        assert report.recommended is not None
        assert report.recommended.member.trial == report.view.recommend(best).member.trial
    strict = read(standard, "study", constraints=["quality >= 0.99"])
    assert "Nothing is recommended: no member of the front meets quality >= 0.99" in Page(render(strict)).text


def test_the_download_is_the_policy_with_its_provenance(standard: Store, tmp_path: Path) -> None:
    report = read(standard, "study")
    link = next(a for a in Page(render(report)).of("a") if "download" in a)
    kind, _, body = str(link["href"]).partition(",")
    assert kind == "data:application/json;base64"
    (tmp_path / "policy.json").write_bytes(base64.b64decode(body))
    loaded = load_policy(tmp_path / "policy.json")
    assert report.recommended is not None and loaded.id == report.recommended.member.policy.id
    assert loaded.provenance["study"] == "study" and loaded.expected


def test_nothing_is_loaded_and_nothing_foreign_may_run(standard: Store) -> None:
    text = render(read(standard, "study"))
    found = Page(text)
    loading = [
        a for _, a in found.tags for key in ("src", "srcset", "data", "action", "background") if key in a
    ]
    assert not loading
    assert {tag for tag, _ in found.tags}.isdisjoint({"link", "iframe", "img", "object", "embed", "base"})
    assert all(str(a["href"]).startswith(("#", "data:")) for a in found.of("a"))
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|https?://", text)
    header = next(a["content"] for a in found.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert header is not None and header.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in header
    assert not any(key.startswith("on") or key == "style" for _, a in found.tags for key in a)


def test_hostile_texts_stay_texts(store: Store) -> None:
    def rename(outcomes: Outcomes) -> Outcomes:
        group = np.array([HOSTILE if g == "read" else g for g in outcomes.group])
        return replace(outcomes, group=group, answer=np.array([HOSTILE] * len(outcomes)))

    name = made.make(
        store, f"study {HOSTILE}", change=rename, on=f"proxy:{HOSTILE}", data=f"/d/{HOSTILE}.jsonl"
    )
    text = render(read(store, name))
    found = Page(text)
    assert "<img" not in text and "49" not in re.findall(r"onerror=alert\(1\)>(..)", text)
    assert len(found.of("script")) == 1
    assert f"study {HOSTILE}" in found.text and HOSTILE in found.text.replace("study " + HOSTILE, "")
    assert not any("onerror" in a for _, a in found.tags)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"heldout": False}, "was not measured on held-out data"),
        ({"trials": 0}, "There is nothing to recommend yet"),
        ({"trials": 1}, "trial 0"),
        ({"references": False}, "No reference has been measured yet"),
        ({"on": "Qwen/Qwen2.5-VL-7B-Instruct"}, "measured by running Qwen/Qwen2.5-VL-7B-Instruct"),
    ],
)
def test_studies_with_holes(store: Store, options: dict, says: str) -> None:
    found = page(store, made.make(store, **options))
    assert says in found.text
    assert not re.search(r"\bnan\b", found.text, re.IGNORECASE)


def nothing(*columns: str) -> made.Change:
    return lambda outcomes: replace(outcomes, **{c: np.full(len(outcomes), np.nan) for c in columns})


@pytest.mark.parametrize(
    "change",
    [
        nothing("kl", "next_correct"),
        nothing("blind", "agreement", "kl"),
        lambda o: replace(o, image=np.array(["one"] * len(o))),
        lambda o: replace(o, group=np.array([""] * len(o)), metric="agreement"),
        lambda o: replace(o, kl=np.where(np.arange(len(o)) % 2, np.nan, o.kl)),
        lambda o: replace(o, correct=np.zeros(len(o)), full=np.zeros(len(o))),
    ],
    ids=["no second question", "no blind", "one image", "no answers", "some NaN", "all wrong"],
)
def test_missing_figures_are_said_and_not_printed_as_numbers(store: Store, change: Callable) -> None:
    found = page(store, made.make(store, change=change))
    assert not re.search(r"\bnan\b", found.text, re.IGNORECASE)
    assert not any(
        "nan" in str(v) for tag, a in found.tags if tag in ("path", "circle", "rect") for v in a.values()
    )


def test_failed_trials_are_told_with_their_reason(store: Store) -> None:
    name = made.make(store)
    for number in (50, 51):
        trial_id = store.add_trial(name, number, made.proposal(number, 99))
        store.finish_trial(trial_id, "failed", reason="OutOfMemory: <b>8 GiB</b>")
    assert "2 × failed: OutOfMemory: <b>8 GiB</b>" in page(store, name).text


def test_without_answers_quality_is_called_agreement(store: Store) -> None:
    name = made.make(store, change=lambda o: replace(o, metric="agreement"))
    assert "not correctness" in page(store, name).text


def test_a_proxy_that_failed_its_calibration_recommends_nothing(
    standard: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autotc import calibration

    report = read(standard, "study")
    assert report.calibration == calibration.verdict(made.ON)
    assert ("no recommendation for" in Page(render(report)).text) == report.demo
    passed = calibration.Verdict("qwen2_5_vl-tiny", True, 0.9, 13, 0.01, 0.8, "Calibration passed: made up.")
    monkeypatch.setattr("autotc.report.reading.verdict", lambda on: passed)
    text = page(standard, "study").text
    assert "Take trial" in text and "no recommendation" not in text and "Calibration passed: made up." in text


def test_unknown_studies_and_rules_are_refused(standard: Store) -> None:
    with pytest.raises(SpecError, match="unknown study"):
        read(standard, "other")
    with pytest.raises(SpecError, match="--best"):
        read(standard, "study", best="worst")
    with pytest.raises(SpecError, match="--flops-convention"):
        read(standard, "study", convention="other")


def test_two_hundred_trials_stay_small(store: Store) -> None:
    text = render(read(store, made.make(store, trials=200)))
    assert len(text.encode()) < 3e6
    figures = {a.get("aria-label") for a in Page(text).of("svg")}
    assert len(figures) == 8


def test_the_command_is_the_one_that_was_typed(store: Store) -> None:
    report = read(store, made.make(store, data="/my data/x.jsonl"))
    assert report.command == (
        "autotc search --model qwen2.5-vl --max-tflops 800 --flops-convention literature "
        "--constraint 'worst_group_drop <= 0.5' --data '/my data/x.jsonl' --examples 64 --trials 5 --seed 0 "
        "--workload vqa"
    )


def test_the_command_line_writes_the_page(standard: Store, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from autotc.cli import app

    out = tmp_path / "report.html"
    found = CliRunner().invoke(app, ["report", "-o", str(out), "--storage", standard.url, "--json"])
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    assert said["study"] == "study" and said["bytes"] == out.stat().st_size
    assert said["recommendation"]["trial"] == read(standard, "study").recommended.member.trial  # type: ignore[union-attr]
    Page(out.read_text())
