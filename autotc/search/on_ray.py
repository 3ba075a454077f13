"""The executor `ray`: every worker of a study is a Ray actor, placed and restarted by Ray.

Ray knows nothing of trials: who has which in hand and what is finished stands in the database, as with all other
workers. An actor that Ray starts again, here or on another machine, looks there and goes on.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType, TracebackType
from typing import Any

from autotc.errors import SpecError, StoreAway, StoreError
from autotc.search._loop import Loop
from autotc.search._patience import Patience
from autotc.search._references import examples_of, references
from autotc.search.setting import Setting
from autotc.search.spec import SearchSpec
from autotc.search.study import LEASE_S, Study, open_ledger
from autotc.search.team import TeamStudy
from autotc.store import Store
from autotc.store.engine import parse_url, sqlite_file

LOOK_S = 2.0  # how often the command looks at what the workers have stored
END_S = 5.0  # which the other workers have to end after one has ended the study

Prepare = Callable[[SearchSpec], Setting]


@dataclass(repr=False)
class Member:
    """One worker of a study; Ray makes it an actor.

    Args:
        prepare: turns the spec into what runs where the actor is.
        spec: of the study, with the full address of the database.
        name: of the study.
        folder: where the command was typed, for relative paths.
        began: `time.time()` when it was typed.
        cores: of its machine that are the actor's; None where it has a GPU of its own.
        lease_s: silence after which it counts as gone.
    """

    prepare: Prepare
    spec: SearchSpec
    name: str
    folder: str
    began: float
    cores: float | None
    lease_s: float = LEASE_S

    def __repr__(self) -> str:
        # Ray writes this into its logs, where the database's password must not be
        return f"Member({self.name!r})"

    def work(self) -> tuple[bool, list[str]]:
        """Work until the study is over or its time is up; Ray calls it again after a restart.

        Returns:
            Whether the study is over, and what its user should know.

        Raises:
            SpecError: on this machine it would be another study.
        """
        with suppress(OSError):  # whoever names only full paths needs no such folder
            os.chdir(self.folder)
        study = Patience(lambda: True)(self._study)
        try:
            return study.patiently(study.work), study._session.notes
        finally:
            with suppress(StoreError):  # the leases then run out by themselves
                study.rest()
            study.store.close()

    def _study(self) -> TeamStudy:
        setting = self.prepare(self.spec)
        sharing = 1 if self.cores is None else max(1, round((os.cpu_count() or 1) / self.cores))
        started = time.monotonic() - (time.time() - self.began)
        store = Store(self.spec.storage)
        study = TeamStudy(
            self.spec,
            store,
            setting,
            None,
            started,
            self.lease_s,
            patiently=Patience(lambda: True, store=store),
            others=self.spec.workers > 1,
            sharing=sharing,
        )
        if study.name != self.name:
            raise SpecError(
                f"--executor ray: on {os.uname().nodename} the model, the data or autotc differs from where the "
                f"command was typed (study {study.name}, not {self.name}). All machines need the same files and "
                "versions"
            )
        return study


@dataclass
class RayStudy(Study):
    """A study whose command only waits and shows: its workers are Ray's.

    Args:
        prepare: as a worker calls it.
    """

    prepare: Prepare = field(kw_only=True)

    def _trials(self) -> bool:
        url = _absolute(self.store.url)
        ledger = open_ledger(self.store, self.name, self.spec)
        try:
            loop = self._loop(ledger)
            self._board = loop.board
            with Cluster(self.spec, url, self._session.notes) as cluster:
                member = partial(
                    Member,
                    self.prepare,
                    self.spec.model_copy(update={"storage": url}),
                    self.name,
                    os.getcwd(),
                    time.time() - (time.monotonic() - self._session.clock.started),
                    lease_s=self.lease_s,
                )
                cluster.run(member, partial(self._look, loop))
            self.patiently(loop.refresh)
        finally:
            ledger.close()
        row = self.patiently(lambda: self.store.study(self.name))
        return row is not None and row.state == "finished"

    def _measure(self) -> None:
        """Its workers did."""

    def _look(self, loop: Loop) -> None:
        """Show how far the workers are; a database that is away is their business."""
        session = self._session
        with suppress(StoreAway):
            rows = self.store.trials(self.name, role="reference")
            done = sum(r.state != "running" for r in rows)
            full = next((r for r in rows if not r.policy.stages), None)
            if full is None or done < len(rows):
                wanted = len(references(self.space, self.spec.all_presets))
                session.report("references", done, wanted, session.clock.left_s, self._board)
                return
            session.search_n = examples_of(full, self.spec)
            if self._finished() > self._board.finished:
                loop.refresh()
            board = self._board
            session.report("trials", board.finished, self.spec.trials, session.clock.left_s, board)


class Cluster:
    """The Ray cluster that is there, or one of this machine alone, for the time of a `with` block.

    Args:
        spec: whose workers are placed.
        url: the database.
        notes: takes what the user should know.

    Raises:
        SpecError: Ray is not installed, does not answer, or has machines that cannot reach the database.
    """

    def __init__(self, spec: SearchSpec, url: str, notes: list[str]) -> None:
        self._ray, self._spec, self._url, self._notes = _ray(), spec, url, notes
        self._own = not self._ray.is_initialized()
        self._actors: list[Any] = []

    def __enter__(self) -> Cluster:
        if self._own:
            _connect(self._ray)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        if self._own:
            self._ray.shutdown()

    def run(self, member: Callable[..., Member], look: Callable[[], None]) -> None:
        """Start the workers and wait until the study is over, or none of them works on it any more.

        Args:
            member: makes a worker, given its `cores`.
            look: called now and then.

        Raises:
            Exception: what ended the last worker, when all of them failed.
        """
        ray = self._ray
        place, cores = self._place()
        options = {**place, "max_restarts": -1, "max_task_retries": -1}
        made = member(cores=cores)
        remote = ray.remote(Member).options(**options)
        self._actors = [remote.remote(**vars(made)) for _ in range(self._spec.workers)]
        waiting = [actor.work.remote() for actor in self._actors]
        failed, ended = None, 0
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=LOOK_S)
            look()
            for answer in done:
                try:
                    over, notes = ray.get(answer)
                except ray.exceptions.RayError as error:
                    failed = getattr(error, "cause", None) or error
                    self._note(f"A Ray worker ended: {type(failed).__name__}: {failed}")
                    continue
                ended += 1
                self._note(*notes)
                if over:
                    ray.wait(waiting, num_returns=len(waiting), timeout=END_S) if waiting else None
                    return
        if failed is not None and not ended:
            raise failed

    def _note(self, *notes: str) -> None:
        self._notes += [note for note in notes if note not in self._notes]

    def _place(self) -> tuple[dict[str, float], float | None]:
        """Return what a worker reserves: a GPU, or its share of the cores where there is none; and that share."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if len(nodes) > 1 and sqlite_file(parse_url(self._url)) is not None:
            raise SpecError(
                f"--executor ray: this cluster has {len(nodes)} machines, which cannot share a SQLite file. Use "
                "--storage postgresql://USER@HOST/autotc"
            )
        workers = self._spec.workers
        gpus = int(sum(node.get("GPU", 0) for node in nodes))
        if gpus and self._spec.device != "cpu":
            if workers > gpus:
                self._note(
                    f"The Ray cluster has {gpus} GPUs now: that many of {workers} workers run, the others when "
                    "there is room."
                )
            return {"num_gpus": 1, "num_cpus": 1}, None
        there = [node["CPU"] for node in nodes if node.get("CPU")]
        cores = min([sum(there) / workers, *there]) if there else 1.0
        cores = float(int(cores)) if cores >= 1 else cores
        return {"num_cpus": cores}, cores


def _ray() -> ModuleType:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise SpecError(
            "--executor ray: Ray is not installed here. Install it: pip install 'autotc[ray]', or leave --executor out"
        ) from error
    return ray


def _connect(ray: ModuleType) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    named = os.environ.get("RAY_ADDRESS")
    try:
        ray.init(address=named or "auto", **quiet)
    except ConnectionError as error:
        if named:
            raise SpecError(f"RAY_ADDRESS: no Ray cluster answers at {named}") from error
        # its ports are for this machine, and its jobs API, which runs what it is told, stays off
        ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)


def _absolute(url: str) -> str:
    parsed = parse_url(url)
    file = sqlite_file(parsed)
    if file is None:
        return url
    return parsed.set(database=str(file.absolute())).render_as_string(hide_password=False)
