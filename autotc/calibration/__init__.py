"""How far a proxy can be trusted: the verdict of its calibration against published results.

`verdict` is the one place that says so; commands, fronts and documents print what it gives. The test is written down
in `studies/calibration/PROTOCOL.md` and its result in `studies/calibration/README.md`; `autotc bench calibrate`
writes the file that this module reads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from autotc.calibration.frozen import frozen
from autotc.errors import SpecError

FILE = Path(__file__).with_name("verdict.json")
DEMO = "mechanics demo"


@dataclass(frozen=True)
class Verdict:
    """What the calibration of one proxy found.

    Args:
        proxy: its name.
        passed: whether the pre-registered test was passed; None where it has not been made on the proxy's family, or
            for these weights.
        concordance: share of the yardstick's pairs that the proxy orders rightly; None without a test.
        pairs: of the yardstick.
        p: against shuffled labels, after Holm's correction.
        ceiling: share on which measurements of real models agree among themselves.
        text: one sentence for a reader.
    """

    proxy: str
    passed: bool | None
    concordance: float | None
    pairs: int
    p: float | None
    ceiling: float | None
    text: str

    @property
    def label(self) -> str:
        """What stands beside the proxy's name; empty where it passed."""
        return "" if self.passed else DEMO

    @property
    def advice(self) -> str:
        """What a reader may do with the numbers; empty where it passed."""
        if self.passed:
            return ""
        return (
            f"No method is recommended on the word of {self.proxy}, a {DEMO}: measure on the real weights before use "
            "(autotc verify POLICY --model DIR --data F)."
        )


def verdict(name: str) -> Verdict | None:
    """Return the verdict on what numbers name as measured, or None where it is no proxy.

    Args:
        name: as in `Number.on`, e.g. "proxy:llava-tiny"; the bare name of a proxy will do.
    """
    proxy = name.removeprefix("proxy:")
    known = _read()
    if proxy not in known and not name.startswith("proxy:"):
        return None
    found = known.get(proxy)
    if found is None:
        return Verdict(proxy, None, None, 0, None, None, f"{proxy} has not been calibrated: a {DEMO}.")
    if found["frozen"] != frozen(proxy):
        text = (
            f"{proxy} was calibrated with other weights or scenes: a {DEMO} "
            "until autotc bench calibrate is run again."
        )
        return Verdict(proxy, None, None, 0, None, None, text)
    return Verdict(
        proxy,
        found["passed"],
        found["concordance"],
        found["pairs"],
        found["p"],
        found["ceiling"],
        found["text"],
    )


def named(name: str) -> str:
    """Return the name of what was measured with its label, e.g. "proxy:llava-tiny (mechanics demo)"."""
    found = verdict(name)
    return f"{name} ({found.label})" if found is not None and found.label else name


def publish(found: dict[str, dict]) -> None:
    """Write verdicts where `verdict` reads them; those of other proxies stay.

    Args:
        found: by proxy, from `study.verdicts`.

    Raises:
        SpecError: the package's folder cannot be written to.
    """
    text = json.dumps({**_read(), **found}, indent=1, ensure_ascii=False, sort_keys=True)
    try:
        FILE.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{FILE}: cannot be written: {error.strerror or error}") from error
    _read.cache_clear()


@cache
def _read() -> dict[str, dict]:
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
