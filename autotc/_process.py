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
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from autotc._outcomes import Outcomes, numbers
from autotc.errors import AutotcError
from autotc.policy import Number, Policy
from autotc.task import Split, Task

RECYCLE_AFTER = 400  # evaluations; allocators fragment, and a fresh child is a few seconds


class ProcessLost(RuntimeError):
    """The child ended during an evaluation; the next one gets a new child."""


class EvaluatorProcess:
    """An `Evaluator` in a child process, started when it is first needed and replaced when it is lost.

    Args:
        model: a model folder.
        task: the data; it travels to the child by pickle.
        recycle_after: evaluations after which the child is replaced.
        options: of `Evaluator`.
    """

    def __init__(
        self, model: str | Path, task: Task, *, recycle_after: int = RECYCLE_AFTER, **options: Any
    ) -> None:
        self._work = (str(model), task, options)
        self._recycle_after = recycle_after
        self._child: subprocess.Popen[bytes] | None = None
        self._count = 0

    @property
    def pid(self) -> int | None:
        """Process id of the child, while there is one."""
        return None if self._child is None else self._child.pid

    def evaluate(self, policy: Policy | None, split: Split, n: int, *, start: int = 0) -> Outcomes:
        """Run a policy in the child; see `Evaluator.evaluate`.

        Raises:
            ProcessLost: the child crashed or was killed.
            MemoryError: it ran out of memory and said so.
            RuntimeError: any other failure in the child, with its last line and where it was.
            AutotcError: as `Evaluator.evaluate` raises it.
        """
        if self._count >= self._recycle_after:
            self.close()
        answer = self._ask((policy, split, n, start))
        self._count += 1
        if isinstance(answer, Outcomes):
            return answer
        if answer["memory"]:
            self.close()  # what it holds is given back
            raise MemoryError(answer["text"])
        if isinstance(answer["error"], AutotcError):
            raise answer["error"]
        raise RuntimeError(f"{answer['text']} ({answer['where']})")

    def numbers(self, outcomes: Outcomes) -> list[Number]:
        """Return quality, worst group, grounded score, agreement, KL and next question with standard
        errors.
        """
        return numbers(outcomes)

    def close(self) -> None:
        """End the child; the next evaluation starts another one."""
        child, self._child, self._count = self._child, None, 0
        if child is None:
            return
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # flushing to a process that is gone
                    stream.close()

    def __enter__(self) -> EvaluatorProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _ask(self, request: Any) -> Any:
        try:
            child = self._started()
            assert child.stdin is not None and child.stdout is not None
            _send(child.stdin, request)
            return pickle.load(child.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            code = None if self._child is None else self._child.wait()
            self.close()
            killed = " (killed: perhaps the machine was out of memory)" if code == -9 else ""
            raise ProcessLost(f"the evaluation process ended with code {code}{killed}") from error
        except BaseException:
            self.close()  # interrupted half-way: what it would answer later belongs to nobody
            raise

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._child = subprocess.Popen(
                [sys.executable, "-c", "from autotc._process import serve; serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                start_new_session=True,
            )
            assert self._child.stdin is not None
            _send(self._child.stdin, self._work)
        return self._child


def serve() -> None:
    """Be the child: read the work, then answer requests until the parent is gone."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    evaluator: Any = None
    work = pickle.load(requests)
    inbox = _Inbox(requests)
    while True:
        policy, split, n, start = inbox.take()
        try:
            if evaluator is None:
                from autotc.evaluate import Evaluator

                evaluator = Evaluator(work[0], work[1], **work[2])
            answer: Any = evaluator.evaluate(policy, split, n, start=start)
        except Exception as error:  # errors travel to the parent as data
            answer = _described(error)
        _send(answers, answer)


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
