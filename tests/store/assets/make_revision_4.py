"""Make `revision_v0.1.0.d.sqlite`: the database of the third revision, upgraded, with what a trial was run with.

Run once, with the autotc that knows no later revision, from the root of the repository:

    python -m tests.store.assets.make_revision_4
"""

from __future__ import annotations

import shutil
from pathlib import Path

from autotc.store import Store
from autotc.store.revision import head

FOLDER = Path(__file__).parent
FILE = FOLDER / "revision_v0.1.0.d.sqlite"


def main() -> None:
    if head() != "v0.1.0.d":
        raise SystemExit(f"this autotc writes {head()}; use the one whose newest revision is v0.1.0.d")
    shutil.copy(FOLDER / "revision_v0.1.0.c.sqlite", FILE)
    store = Store(f"sqlite:///{FILE}", check=False)
    store.upgrade()
    made_with = {"autotc": "0.1.0", "cpu": "AMD EPYC", "cores": 2, "gpu": []}
    environment = store.add_environment("typical", made_with)
    running = store.trials("typical", state="running")[0]
    store.finish_trial(running.id, "failed", reason="out of memory", environment=environment)
    store.close()
    print(FILE, FILE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
