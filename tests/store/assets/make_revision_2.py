"""Make `revision_v0.1.0.b.sqlite`: the database of the first revision, upgraded, with a calibration.

Run once, with the autotc that knows no later revision, from the root of the repository:

    python -m tests.store.assets.make_revision_2
"""

from __future__ import annotations

import shutil
from pathlib import Path

from autotc.store import Store
from autotc.store.revision import head
from tests.store.builders import number, policy

FOLDER = Path(__file__).parent
FILE = FOLDER / "revision_v0.1.0.b.sqlite"
OUTCOMES = {"id": ["a", "b"], "image": ["x", "y"], "correct": [1.0, 0.0], "full": [1.0, 1.0]}


def main() -> None:
    if head() != "v0.1.0.b":
        raise SystemExit(f"this autotc writes {head()}; use the one whose newest revision is v0.1.0.b")
    shutil.copy(FOLDER / "revision_v0.1.0.a.sqlite", FILE)
    store = Store(f"sqlite:///{FILE}", check=False)
    store.upgrade()
    it = store.start_calibration("/models/mine", "m1", "proxy:tiny", "p1", "d1", 2)
    both = {"model": OUTCOMES, "proxy": OUTCOMES}
    store.add_anchor(it.id, "half", 0.5, policy(0.5), {"tflops_exact": 12.0}, [number(0.5)], both)
    store.add_anchor(it.id, "broken", 0.3, policy(0.3), {"tflops_exact": 9.0}, reason="out of memory")
    store.finish_calibration(it.id, {"rho": 0.5})
    store.close()
    print(FILE, FILE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
