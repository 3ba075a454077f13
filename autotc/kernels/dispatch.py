"""Which implementation of an operation runs: the plain-torch reference, or CUDA where a CUDA tensor comes in.

One switch, `AUTOTC_KERNELS`: `auto` (the default) takes CUDA where it can and says once why not where it cannot,
`reference` never does, `cuda` fails where it cannot.
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from autotc.errors import SpecError, UnsupportedError
from autotc.registry import nearest

P = ParamSpec("P")
R = TypeVar("R")

VARIABLE = "AUTOTC_KERNELS"
CHOICES = ("auto", "reference", "cuda")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
OPERATIONS: dict[str, Callable[..., Any]] = {}
"""The references that have a CUDA twin, by name."""

_chosen: ContextVar[str | None] = ContextVar("autotc_kernels", default=None)


def operation(reference: Callable[P, R]) -> Callable[P, R]:
    """Make a reference an operation: a function of the same name in `autotc.kernels.cuda` runs for CUDA tensors.

    The first argument is a tensor, or a sequence of tensors, and decides where it runs.
    """

    @functools.wraps(reference)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        first: Any = args[0]
        first = first if isinstance(first, Tensor) else first[0]
        if backend(first) == "reference":
            return reference(*args, **kwargs)
        found: R = getattr(importlib.import_module("autotc.kernels.cuda"), reference.__name__)(
            *args, **kwargs
        )
        return found

    OPERATIONS[reference.__name__] = reference
    return run


def choice() -> str:
    """Return what is asked for: `use(...)`, else the environment, else auto.

    Raises:
        SpecError: the environment asks for something unknown.
    """
    chosen = _chosen.get() or os.environ.get(VARIABLE) or "auto"
    if chosen not in CHOICES:
        raise SpecError(f"{VARIABLE}: unknown choice {chosen!r}. {nearest(chosen, CHOICES)}")
    return chosen


@contextmanager
def use(name: str) -> Iterator[None]:
    """Choose an implementation in this block, whatever the environment says: auto, reference or cuda."""
    if name not in CHOICES:
        raise SpecError(f"kernels.use: unknown choice {name!r}. {nearest(name, CHOICES)}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def backend(tensor: Tensor) -> str:
    """Return "cuda" or "reference" for an operation on a tensor; nothing is imported unless it is on a GPU.

    Raises:
        UnsupportedError: `cuda` is asked for and cannot be had; the message says why.
    """
    chosen = choice()
    if chosen == "reference" or (chosen == "auto" and not tensor.is_cuda):
        return "reference"
    reason = why_not(tensor)
    if reason is None:
        return "cuda"
    if chosen == "cuda":
        raise UnsupportedError(f"{VARIABLE}=cuda: {reason}")
    _say_once(f"choosing tokens runs in plain PyTorch on this GPU: {reason}")
    return "reference"


def why_not(tensor: Tensor) -> str | None:
    """Return why CUDA cannot run an operation on a tensor, None when it can."""
    if not tensor.is_cuda:
        return f"the tensor is on {tensor.device.type}, not on an NVIDIA GPU"
    if tensor.dtype not in DTYPES:
        return f"{tensor.dtype} is not float32, float16 or bfloat16"
    reason: str | None = importlib.import_module("autotc.kernels._cupy").why_not(tensor.device.index)
    return reason


@functools.cache
def _say_once(text: str) -> None:
    warnings.warn(f"autotc: {text}", stacklevel=4)


def available() -> str | None:
    """Return why no operation can run on CUDA on this machine, None when they can."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU: no driver, a driver too old for this torch, or no device for this process"
    return why_not(torch.empty(0, device="cuda"))


def chooser(device: torch.device) -> str:
    """Return what operations run on for tensors of a device: "cuda", or "reference" and why; kept with measurements."""
    if choice() == "reference":
        return f"reference: {VARIABLE}=reference or kernels.use"
    reason = why_not(torch.empty(0, device=device))
    return "cuda" if reason is None else f"reference: {reason}"


def listing() -> list[dict[str, Any]]:
    """Return for every operation which implementation a tensor on this machine's GPU, or CPU, gets, and why."""
    chosen, reason = choice(), available()
    if chosen == "reference":
        used, why = "reference", f"{VARIABLE}=reference or kernels.use"
    elif reason is None:
        used, why = "cuda", "-"
    else:
        used, why = "reference", reason
    if chosen == "cuda" and reason is not None:
        used, why = "none", f"{VARIABLE}=cuda, but {reason}"
    return [
        {
            "operation": name,
            "used": used,
            "why_not_cuda": why,
            "what": (function.__doc__ or "").split("\n")[0],
        }
        for name, function in sorted(OPERATIONS.items())
    ]
