"""What the trainings of all proxy models share: processes, optimisers, clock, log and checkpoint.

On CPU every process uses one thread and the processes share each step: one barrier a step costs far
less on busy cores than one an operator. The schedule follows ``--minutes`` of work, or ``--steps``
for a run that another machine can repeat.
"""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from autotc.proxies.muon import Muon


@dataclass
class Options:
    """The command line; ``sizes`` are arguments of the model's ``build`` (tests train a smaller one)."""

    out: Path
    minutes: float | None = None  # None: as long as the proxy's own schedule
    steps: int | None = None
    seed: int = 1
    resume: bool = False
    device: str = "cpu"
    processes: int = 2
    compile: bool = True
    lr: float = 1.5e-3
    validate_every: float = 180.0  # seconds
    sizes: dict[str, int] | None = None


class Runner(ABC):
    """Models, optimisers and log of one process.

    Args:
        options: see ``Options``.
        parts: the modules in training by the name they have in the checkpoint.
        matrices: the parameters that Muon updates; AdamW updates all others.
    """

    minutes: ClassVar[float]  # of the proxy's own schedule

    def __init__(
        self,
        options: Options,
        rank: int,
        world: int,
        parts: dict[str, nn.Module],
        matrices: list[nn.Parameter],
    ) -> None:
        self.options, self.rank, self.world, self.parts = options, rank, world, parts
        known = set(map(id, matrices))
        others = [p for part in parts.values() for p in part.parameters() if id(p) not in known]
        self.params = matrices + others
        wide = [p for p in others if p.ndim > 1]
        flat = [p for p in others if p.ndim < 2]
        self.muon = Muon(matrices, lr=options.lr)
        self.adam = torch.optim.AdamW(
            [{"params": wide, "weight_decay": 0.05}, {"params": flat, "weight_decay": 0.0}],
            lr=options.lr,
            betas=(0.9, 0.98),
        )
        self.step = self.stage_step = self.images = 0
        self.elapsed = 0.0
        self.stage = ""

    @abstractmethod
    def train_step(self) -> dict[str, float]:
        """Do one step on all processes and return its losses."""

    @abstractmethod
    def look(self) -> dict[str, Any]:
        """Return how good the model is on validation scenes, for the log; may be empty."""

    @abstractmethod
    def export(self, out: Path) -> None:
        """Write the model into a folder."""

    def progress(self) -> float:
        """Return how much of the run is done, 0 to 1."""
        if self.options.steps:
            return self.step / self.options.steps
        return self.elapsed / (60 * (self.options.minutes or self.minutes))

    def scene_seeds(self, batch: int) -> range:
        """Return the seeds of this step's scenes: no image comes twice, also after a resume, and another
        training seed has other images.
        """
        first = (self.options.seed - 1) % 2**31 * 10**9 + (self.step * self.world + self.rank) * 64
        return range(first, first + batch)

    def update(self, loss: Tensor, factor: float) -> float:
        """Do the backward pass and one step of both optimisers; return the learning rate."""
        loss.backward()
        self._share_gradients()
        nn.utils.clip_grad_norm_([p for p in self.params if p.grad is not None], 1.0)
        rate = self.options.lr * factor
        for optimiser in (self.muon, self.adam):
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.stage_step += 1
        return rate

    def _share_gradients(self) -> None:
        if self.world == 1:
            return
        grads = [p.grad for p in self.params if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        flat /= self.world
        for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            g.copy_(part.view_as(g))

    def total(self, counts: Tensor) -> Tensor:
        """Return the sum of all processes' counts, in place."""
        if self.world > 1:
            dist.all_reduce(counts)
        return counts

    def save(self) -> None:
        """Write the checkpoint, replacing the last one at once."""
        state = {name: part.state_dict() for name, part in self.parts.items()} | {
            "muon": self.muon.state_dict(),
            "adam": self.adam.state_dict(),
            "counters": {
                name: getattr(self, name) for name in ("step", "stage_step", "images", "elapsed", "stage")
            },
        }
        part = self.options.out / "checkpoint.part"
        torch.save(state, part)
        os.replace(part, self.options.out / "checkpoint.pt")

    def load(self) -> None:
        """Go on from the checkpoint in the work folder."""
        path = self.options.out / "checkpoint.pt"
        state = torch.load(path, map_location=self.options.device, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        vars(self).update(state["counters"])

    def log(self, record: dict[str, Any]) -> None:
        """Append one JSON line to the log and print it for people."""
        if self.rank:
            return
        record = {k: round(x, 5) if isinstance(x, float) else x for k, x in record.items()}
        with (self.options.out / "train.log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        print("  ".join(f"{key} {value}" for key, value in record.items()), flush=True)

    def run(self) -> None:
        """Train until the progress is 1."""
        if self.options.resume:
            self.load()
        recent: list[dict[str, float]] = []
        clock, looked, noted, seen = time.monotonic(), self.elapsed, self.elapsed, self.images
        while self.progress() < 1:
            recent.append(self.train_step())
            now = time.monotonic()
            self.elapsed += now - clock
            clock = now
            if self.world > 1:  # all follow the clock of the first
                shared = torch.tensor([self.elapsed], dtype=torch.float64)
                dist.broadcast(shared, 0)
                self.elapsed = shared.item()
            if self.elapsed - noted > 30 or self.progress() >= 1:
                means = {k: float(np.mean([r[k] for r in recent if k in r])) for k in recent[-1]}
                rate = (self.images - seen) / (self.elapsed - noted)
                left = self.elapsed / self.progress() - self.elapsed
                about = {"step": self.step, "stage": self.stage, "seconds": round(self.elapsed)}
                speed = {"images_per_s": rate, "images": self.images, "eta_min": left / 60}
                self.log(about | means | speed)
                recent, noted, seen = [], self.elapsed, self.images
            if self.progress() >= 1 or self.elapsed - looked > self.options.validate_every:
                looked = self.elapsed
                if seen_there := self.look():
                    self.log({"step": self.step, "seconds": round(looked)} | seen_there)
                if self.rank == 0:
                    self.save()
        if self.rank == 0:
            self.export(self.options.out / "model")


def matrices_of(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Return the two-dimensional parameters of some modules."""
    return [p for module in modules for p in module.parameters() if p.ndim == 2]


def _work(rank: int, world: int, runner: type[Any], options: Options, store: str) -> None:
    if options.device == "cpu":
        torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    runner(options, rank, world).run()
    if world > 1:
        dist.destroy_process_group()


def launch(runner: type[Any], options: Options) -> None:
    """Run a training, a subclass of ``Runner``, with as many processes as asked (one on a GPU)."""
    options.out.mkdir(parents=True, exist_ok=True)
    world = options.processes if options.device == "cpu" else 1
    if world == 1:
        _work(0, 1, runner, options, "")
        return
    store = options.out / f"meeting-{os.getpid()}"
    mp.spawn(_work, (world, runner, options, str(store.resolve())), nprocs=world)
    store.unlink(missing_ok=True)
