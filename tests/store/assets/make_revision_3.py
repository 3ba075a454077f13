"""Make `revision_v0.1.0.c.sqlite`: the database of the second revision, upgraded, with jobs and tokens.

Run once, with the autotc that knows no later revision, from the root of the repository:

    python -m tests.store.assets.make_revision_3
"""

from __future__ import annotations

import shutil
from pathlib import Path

from autotc.store import Store
from autotc.store.revision import head

FOLDER = Path(__file__).parent
FILE = FOLDER / "revision_v0.1.0.c.sqlite"


def main() -> None:
    if head() != "v0.1.0.c":
        raise SystemExit(f"this autotc writes {head()}; use the one whose newest revision is v0.1.0.c")
    shutil.copy(FOLDER / "revision_v0.1.0.b.sqlite", FILE)
    store = Store(f"sqlite:///{FILE}", check=False)
    store.upgrade()
    first = store.add_job({"model": "qwen2.5-vl", "max_tflops": 800.0}, submitted_by="ci")
    store.start_job(first.id, "typical")
    store.end_job(first.id, "finished")
    store.add_job({"model": "llava-1.5-7b"})
    store.add_token("ci", "0" * 64, ["read", "submit"])
    store.add_token("old", "1" * 64, ["read"])
    store.revoke_token("old")
    store.add_loss(store.trials("typical", state="running")[0].id)
    store.close()
    print(FILE, FILE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
