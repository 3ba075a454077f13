"""Make `revision_v0.1.0.a.sqlite`: a small database as autotc 0.1.0 writes it. Later versions must read it.

Run once, with that autotc, from the root of the repository:

    python -m tests.store.assets.make_revision_1

It holds a finished study of three trials and a reference, one running trial, a lease, a look and a front.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import text

from autotc.store import Store
from autotc.store.revision import head
from tests.store.builders import finish, number, outcomes, policy, start

FILE = Path(__file__).parent / "revision_v0.1.0.a.sqlite"


def main() -> None:
    if head() != "v0.1.0.a":
        raise SystemExit(f"this autotc writes {head()}; use autotc 0.1.0")
    FILE.unlink(missing_ok=True)
    store = Store(f"sqlite:///{FILE}")
    with store.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        # small pages make a small file
        connection.connection.driver_connection.execute("PRAGMA page_size=512")
    store.upgrade()
    study = start(store, "typical")
    ids = [finish(store, study, i, n=4) for i in range(3)]
    reference = store.add_trial(study, None, policy(0.3), "reference", "random")
    store.finish_trial(reference, "complete", [number(0.2)], {"tflops_exact": 90.0})
    running = store.add_trial(study, 3, policy(0.2))
    store.lease(running, "worker-1", -60)
    store.add_numbers(ids[0], [number(0.48, split="held-out", n=512)])
    store.add_outcomes(ids[0], "held-out", outcomes(4, start=100))
    store.look(study, "held-out", "front")
    store.publish_front(study, 800, ids[:2])
    store.set_study_state(study, "finished")
    with store.engine.connect() as connection:
        print(connection.execute(text("PRAGMA page_size")).scalar(), "bytes a page")
    store.close()
    print(FILE, FILE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
