"""A folder of weights on this machine: a fingerprint, and where and how its model is run."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotc._memory import default_limit_bytes
from autotc._process import SMALL_BYTES, shared_cores
from autotc.errors import ModelError, SpecError

if TYPE_CHECKING:
    from autotc.anatomy import Anatomy

PIECES = 64  # of each weights file, evenly spread
PIECE_BYTES = 1 << 16
MOST_OF_MEMORY = 0.7  # what weights may take of the machine's memory
MOST_OF_DEVICE = 0.85  # ... and of an accelerator's: activations and captured prefills need the rest


def fingerprint(folder: Path) -> str:
    """Return 16 hex digits over a model: its config, and size and 64 pieces of each weights file.

    Reading 64 KiB at 64 places takes a moment where all of 16 GB would take a minute; training moves all of a
    tensor, so that a place is hit by any tuning of more than a small part of the file.

    Raises:
        ModelError: the folder holds no weights.
    """
    files = sorted(f for pattern in ("*.safetensors", "pytorch_model*.bin") for f in folder.glob(pattern))
    if not files:
        raise ModelError(f"{folder}: no weights there (*.safetensors or pytorch_model*.bin)")
    found = hashlib.sha256((folder / "config.json").read_bytes())
    for path in files:
        size = path.stat().st_size
        found.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for i in range(PIECES):
                file.seek(max(0, size - PIECE_BYTES) * i // (PIECES - 1))
                found.update(file.read(PIECE_BYTES))
    return found.hexdigest()[:16]


def placement(folder: Path, anatomy: Anatomy, device: str = "auto", processes: int = 1) -> dict[str, Any]:
    """Return the options of an `EvaluatorProcess` for a model folder: device, dtype, processes, threads.

    Small models (the proxies) run in float32 on the CPU, one process a core. Large ones run in bfloat16 on the
    first GPU where there is one that holds them, else on the CPU: in float32 where that fits, else in bfloat16.

    Args:
        folder: the model's.
        anatomy: its numbers.
        device: auto, cpu, cuda, cuda:1, mps.
        processes: searching processes that share the machine.

    Raises:
        SpecError: an unknown device, or one that is not there.
        ModelError: the weights do not fit.
    """
    import torch

    if re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device) is None:
        raise SpecError(f"--device: {device!r} is not known. Use auto, cpu, cuda, cuda:1, ... or mps")
    cores = max(1, (os.cpu_count() or 1) // processes)
    weights = anatomy.parameters * 2  # bytes in bfloat16
    small = sum(f.stat().st_size for f in folder.glob("*.safetensors")) <= SMALL_BYTES
    there = torch.cuda.is_available()
    if device == "auto":
        fits = there and weights * processes < MOST_OF_DEVICE * _device_bytes("cuda")
        device = "cuda" if fits and not small else "cpu"
    if device == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / processes
        if weights > MOST_OF_MEMORY * memory:
            raise ModelError(
                f"{folder}: its weights take {weights / 2**30:.0f} GiB in bfloat16, a process may take "
                f"{MOST_OF_MEMORY * memory / 2**30:.0f} GiB here. Use a machine, or a --device, with more memory"
            )
        dtype = "float32" if 2 * weights <= MOST_OF_MEMORY * memory else "bfloat16"
        return {"device": "cpu", "dtype": dtype, **shared_cores(folder, cores)}
    if device.startswith("cuda"):
        number = int(device.partition(":")[2] or 0)
        if not there or number >= torch.cuda.device_count():
            count = torch.cuda.device_count() if there else 0
            raise SpecError(f"--device: {device} is not here; PyTorch finds {count} CUDA devices")
        total = _device_bytes(device)
        if weights * processes > MOST_OF_DEVICE * total:
            raise ModelError(
                f"{folder}: {processes} x {weights / 2**30:.0f} GiB of weights do not fit into the "
                f"{total / 2**30:.0f} GiB of {device}. Use fewer --workers, another --device, or --device cpu"
            )
        room = int((total / processes - weights) / 4)
        limit = {"limit_bytes": min(default_limit_bytes(), room)}
    else:
        if not torch.backends.mps.is_available():
            raise SpecError("--device: mps is not here")
        limit = {}
    return {"device": device, "dtype": "bfloat16", "processes": 1, "threads": cores, **limit}


def _device_bytes(device: str) -> int:
    import torch

    return int(torch.cuda.get_device_properties(torch.device(device)).total_memory)
