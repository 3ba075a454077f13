"""Make `revision_v0.1.0.e.sqlite`: the database of the fourth revision, upgraded, with changes that were counted.

Run once, with the autotc that knows no later revision, from the root of the repository:

    python -m tests.store.assets.make_revision_5
"""

from __future__ import annotations

import shutil
from pathlib import Path

from autotc.store import Store
from autotc.store.revision import head
from tests.store.builders import finish

FOLDER = Path(__file__).parent
FILE = FOLDER / "revision_v0.1.0.e.sqlite"


def main() -> None:
    if head() != "v0.1.0.e":
        raise SystemExit(f"this autotc writes {head()}; use the one whose newest revision is v0.1.0.e")
    shutil.copy(FOLDER / "revision_v0.1.0.d.sqlite", FILE)
    store = Store(f"sqlite:///{FILE}", check=False)
    store.upgrade()
    finish(store, "typical", 4)
    store.close()
    print(FILE, FILE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
