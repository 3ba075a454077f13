"""How much of a run's time is kept for its last steps: by what first looks and the front's policies really take."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from autotc.search._clock import Clock
from autotc.search._report import MOST_CANDIDATES, MOST_OF_TIME, SAFETY, Report
from autotc.search._session import Board, Entry

SELECTION, HELDOUT = 100, 200


def report(monkeypatch: pytest.MonkeyPatch, timeout: float = 1e6) -> tuple[Report, Clock]:
    """A report after a first look that takes 0.5 s an example, model loading before it, and others that take 0.1 s."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock(timeout)
    for seconds, examples, opens in ((100.0, 10, True), (15.0, 30, True), (5.0, 50, False), (1.0, 10, False)):
        with clock.evaluating(examples, opens):
            now[0] += seconds
    spec = SimpleNamespace(selection_examples=SELECTION, heldout_examples=1000)
    sizes = {"selection": SELECTION, "held-out": HELDOUT}
    session: Any = SimpleNamespace(
        spec=spec, clock=clock, available=lambda split, wanted: min(wanted, sizes[split])
    )
    found = Report(session)
    found.start()
    return found, clock


def board(*seconds: float | None) -> Board:
    """A front of policies that took so long an example, and one behind it that took an hour."""
    entries = [Entry(i, i, str(i), (0.1 * i, 1.0 + i), s) for i, s in enumerate(seconds)]
    return Board([*entries, Entry(99, 99, "behind", (0.0, 99.0), 3600.0)])


def test_first_looks_are_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    _, clock = report(monkeypatch)
    assert clock.opening_s_an_example == pytest.approx(0.5)  # the latest: the one before loads the model
    assert clock.seconds_an_example == pytest.approx(0.1)
    assert clock.profile().evaluator_s == pytest.approx(121.0)
    assert "opening" not in clock.profile().parts_s


def test_the_front_takes_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = report(monkeypatch)
    # two on the front, so four candidates; beside them two baselines and four presets, and on held-out three references
    selection = SELECTION * (4 * 0.3 + 6 * 0.1 + 0.5)
    heldout = HELDOUT * (2 * 0.3 + 3 * 0.1 + 0.5)
    assert found.reserve_s(board(0.2, 0.4)) == pytest.approx(SAFETY * (selection + heldout))
    slower = found.reserve_s(board(0.2, 0.8)) - found.reserve_s(board(0.2, 0.4))
    assert slower == pytest.approx(SAFETY * (SELECTION * 4 + HELDOUT * 2) * 0.2)


def test_answers_from_the_store_say_nothing_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = report(monkeypatch)
    assert found.reserve_s(board(0.3, None)) == found.reserve_s(board(0.3, 0.3))
    assert found.reserve_s(board(None, None)) == found.reserve_s(board(0.1, 0.1))  # then the mean of all


def test_a_large_front_is_confirmed_in_part_and_trials_keep_their_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, _ = report(monkeypatch)
    assert found.reserve_s(board(*[0.1] * MOST_CANDIDATES)) == pytest.approx(
        found.reserve_s(board(*[0.1] * (MOST_CANDIDATES + 5)))
    )
    short, _ = report(monkeypatch, timeout=221.0)
    assert short.reserve_s(board(0.2, 0.4)) == pytest.approx(MOST_OF_TIME * 100.0)
