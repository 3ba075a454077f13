"""An evaluator in a process of its own, so that a crash or running out of memory costs one evaluation.

The child is a plain Python process that talks over its standard input and output. It ends when its input
does, so it never outlives its parent, whatever happens to the parent; Ctrl-C in a terminal reaches the parent
only.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from autotc._freerun import Written
from autotc._memory import default_limit_bytes
from autotc._outcomes import Outcomes, numbers
from autotc.errors import AutotcError, DataError
from autotc.policy import Number, Policy
from autotc.task import Split, Task

CHILD = "from autotc._process import serve; serve()"
RECYCLE_AFTER = 400  # evaluations; allocators fragment, and a fresh child is a few seconds


class ProcessLost(RuntimeError):
    """The child ended during an evaluation; the next one gets a new child."""


SMALL_BYTES = 256 << 20  # weights up to this size are loaded once a process
MOST_PROCESSES = 4


def shared_cores(folder: str | Path, cores: int) -> dict[str, int]:
    """Return `processes` and `threads` of an `EvaluatorProcess` for a model folder on some cores: small
    models run once a core, large ones once with all cores.
    """
    weights = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
    if weights > SMALL_BYTES:
        return {"processes": 1, "threads": cores}
    return {"processes": max(1, min(cores, MOST_PROCESSES)), "threads": 1}


class EvaluatorProcess:
    """Evaluates in child processes, started when they are first needed and replaced when they are lost.

    With several children each takes every second (third, ...) step of the batch grid, one thread each: on
    shared cores that is far steadier than one process with several threads, which wait for one another at
    every operation.

    Args:
        model: a model folder.
        task: the data; it travels to the children by pickle.
        processes: how many children share the examples.
        recycle_after: evaluations after which the children are replaced.
        batch: examples that run together, at most.
        options: of `Evaluator`.
    """

    def __init__(
        self,
        model: str | Path,
        task: Task,
        *,
        processes: int = 1,
        recycle_after: int = RECYCLE_AFTER,
        batch: int = 32,
        **options: Any,
    ) -> None:
        options = {**options, "batch": batch}
        if processes > 1:
            options.setdefault("threads", 1)
            options.setdefault("limit_bytes", default_limit_bytes() // processes)
        self._work = str(model), task, options
        self._children = [_Child(self._work) for _ in range(processes)]
        self._recycle_after, self._batch, self._count = recycle_after, batch, 0

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that are there."""
        return [child.process.pid for child in self._children if child.process is not None]

    def evaluate(self, policy: Policy | None, split: Split, n: int, *, start: int = 0) -> Outcomes:
        """Run a policy in the children; see `Evaluator.evaluate`.

        Where a child runs out of memory, batches are halved, from then on, until it does not.

        Raises:
            ProcessLost: a child crashed or was killed.
            MemoryError: it ran out of memory, and said so, with one example at a time.
            RuntimeError: any other failure in a child, with its last line and where it was.
            AutotcError: as `Evaluator.evaluate` raises it.
        """
        outcomes: Outcomes = self._ask("evaluate", policy, split, n, start)
        return outcomes

    def free_running(self, policy: Policy | None, split: Split, n: int, *, start: int = 0) -> Written:
        """Let the model write its answers in the children; see `Evaluator.free_running`. Raises as `evaluate`."""
        written: Written = self._ask("free_running", policy, split, n, start)
        return written

    def _ask(self, what: str, policy: Policy | None, split: Split, n: int, start: int) -> Any:
        while True:
            try:
                return self._ask_once(what, policy, split, n, start)
            except MemoryError:
                if self._batch == 1:
                    raise
                self.close()
                self._batch //= 2
                self._work[2]["batch"] = self._batch

    def _ask_once(self, what: str, policy: Policy | None, split: Split, n: int, start: int) -> Any:
        if self._count >= self._recycle_after:
            self.close()
        self._count += 1
        shares = share(start, n, self._batch, len(self._children))
        answers: list[list[tuple[int, Any]] | BaseException] = [[] for _ in shares]

        def ask(i: int) -> None:
            try:
                answers[i] = self._children[i].ask((policy, split, shares[i], what))
            except BaseException as error:
                answers[i] = error

        if len(shares) == 1:
            ask(0)
        else:
            threads = [threading.Thread(target=ask, args=(i,), daemon=True) for i in range(len(shares))]
            try:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            except BaseException:
                self.close()  # interrupted half-way: what they would answer later belongs to nobody
                raise
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return _joined(
            [part for answer in answers if isinstance(answer, list) for part in answer], split, start
        )

    def numbers(self, outcomes: Outcomes) -> list[Number]:
        """Return quality, worst group, grounded score, agreement, KL, next question with standard errors."""
        return numbers(outcomes)

    def close(self) -> None:
        """End the children; the next evaluation starts others."""
        self._count = 0
        for child in self._children:
            child.close()

    def __enter__(self) -> EvaluatorProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        for child in getattr(self, "_children", ()):
            child.close()


def share(start: int, n: int, batch: int, processes: int) -> list[list[tuple[int, int]]]:
    """Divide examples start..start+n-1 along the batch grid: for each process (start, n) pieces, at least one
    piece in the first process; a process that has none is left out at the end.
    """
    pieces: list[tuple[int, int]] = []
    while n > 0 or not pieces:
        size = min(n, batch - start % batch)
        pieces.append((start, size))
        start, n = start + size, n - size
    first = pieces[0][0] // batch
    shares: list[list[tuple[int, int]]] = [[] for _ in range(processes)]
    for piece in pieces:
        # by place on the grid, so that a piece always meets the process that holds its prefills
        shares[(piece[0] // batch) % processes].append(piece)
    return shares if len(pieces) > 1 else [*shares[: first % processes], [pieces[0]]]


def _joined(parts: list[tuple[int, Any]], split: str, start: int) -> Any:
    parts.sort(key=lambda part: part[0])
    whole = None
    for _, outcomes in parts:
        whole = outcomes if whole is None else whole + outcomes
    if whole is None:
        raise DataError(f"the {split} split has no example number {start}")
    return whole


class _Child:
    """One child process and the pipes to it."""

    def __init__(self, work: Any) -> None:
        self._work = work
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, request: Any) -> Any:
        """Send a request and wait for its answer; raise what went wrong."""
        try:
            child = self._started()
            assert child.stdin is not None and child.stdout is not None
            _send(child.stdin, request)
            answer = pickle.load(child.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            code = None if self.process is None else self.process.wait()
            self.close()
            killed = " (killed: perhaps the machine was out of memory)" if code == -9 else ""
            raise ProcessLost(f"the evaluation process ended with code {code}{killed}") from error
        except BaseException:
            self.close()
            raise
        if isinstance(answer, list):
            return answer
        if answer["memory"]:
            self.close()  # what it holds is given back
            raise MemoryError(answer["text"])
        if isinstance(answer["error"], AutotcError):
            raise answer["error"]
        raise RuntimeError(f"{answer['text']} ({answer['where']})")

    def close(self) -> None:
        """End the process."""
        child, self.process = self.process, None
        if child is None:
            return
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # flushing to a process that is gone
                    stream.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            self.close()
            self.process = subprocess.Popen(
                [sys.executable, "-c", CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                start_new_session=True,
            )
            assert self.process.stdin is not None
            _send(self.process.stdin, self._work)
        return self.process


def serve() -> None:
    """Be the child: read the work, then answer requests until the parent is gone."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    evaluator: Any = None
    work = pickle.load(requests)
    inbox = _Inbox(requests)
    while True:
        policy, split, pieces, what = inbox.take()
        try:
            if evaluator is None:
                from autotc.evaluate import Evaluator

                evaluator = Evaluator(work[0], work[1], **work[2])
            answer: Any = list(_pieces(evaluator, what, policy, split, pieces))
        except Exception as error:  # errors travel to the parent as data
            answer = _described(error)
        _send(answers, answer)


def _pieces(
    evaluator: Any, what: str, policy: Policy | None, split: Split, pieces: list[tuple[int, int]]
) -> Iterator[tuple[int, Any]]:
    """Call the method `what` on pieces until the split ends; if there was anything at all, the parent says."""
    there = len(evaluator.task.examples(split, max((start + n for start, n in pieces), default=0)))
    for start, n in pieces:
        if start < there:
            yield start, getattr(evaluator, what)(policy, split, n, start=start)


class _Inbox:
    """Reads requests in a thread, so that the end of the parent is noticed in the middle of an evaluation."""

    def __init__(self, requests: BinaryIO) -> None:
        self._requests, self._items = requests, []  # type: ignore[var-annotated]
        self._there = threading.Semaphore(0)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                self._items.append(pickle.load(self._requests))
            except (EOFError, OSError, pickle.UnpicklingError):
                os._exit(0)
            self._there.release()

    def take(self) -> Any:
        """Wait for the next request."""
        self._there.acquire()
        return self._items.pop(0)


def _send(stream: Any, message: Any) -> None:
    pickle.dump(message, stream)
    stream.flush()


def _described(error: Exception) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "start"
    text = f"{type(error).__name__}: {error}"
    memory = isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
    known = error if isinstance(error, AutotcError) else None
    return {"text": text, "where": where, "memory": memory, "error": known}
