"""Train ``qwen2_5_vl-tiny`` from scratch: ``python -m autotc.proxies.train --out FOLDER``.

About 100 minutes on two CPU cores. On CPU every process uses one thread and the processes share each
step: one barrier a step costs far less on busy cores than one an operator. The schedule follows
``--minutes`` of work, or ``--steps`` for a run that another machine can repeat.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn

from autotc.proxies import data, schedule
from autotc.proxies import model as models
from autotc.proxies.forward import MIDDLE, Forward
from autotc.proxies.muon import Muon
from autotc.tasks.scenes import GROUPS


@dataclass
class Options:
    """The command line; ``sizes`` are arguments of ``model.build`` (tests train a smaller one)."""

    out: Path
    minutes: float = 98.0
    steps: int | None = None
    seed: int = 1
    resume: bool = False
    device: str = "cpu"
    processes: int = 2
    compile: bool = True
    lr: float = 1.5e-3
    validate_every: float = 180.0  # seconds
    sizes: dict[str, int] | None = None


class Trainer:
    """Model, optimisers and log of one process."""

    def __init__(self, options: Options, rank: int = 0, world: int = 1) -> None:
        self.options, self.rank, self.world = options, rank, world
        torch.manual_seed(options.seed)
        self.model = models.build(**(options.sizes or {})).to(torch.device(options.device))  # type: ignore[arg-type]
        dtype = torch.bfloat16 if options.compile else torch.float32
        self.forward = Forward(self.model, dtype, compiled=options.compile)
        self.plain = Forward(self.model, dtype)  # for sizes too rare to compile
        self.dense = nn.Linear(self.model.config.text_config.hidden_size, sum(data.DENSE))
        width = self.model.config.text_config.hidden_size
        self.place = nn.ModuleList(nn.Linear(width, 2) for _ in MIDDLE)
        self.dense.to(options.device)
        self.place.to(options.device)
        inner = self.model.model
        blocks = [inner.visual.blocks, inner.visual.merger, inner.language_model.layers]
        matrices = [p for part in blocks for p in part.parameters() if p.ndim == 2]
        known = set(map(id, matrices))
        others = [p for p in self.model.parameters() if id(p) not in known]
        others += [*self.dense.parameters(), *self.place.parameters()]
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
        self.stage = schedule.STAGES[0].name

    # --- one step -------------------------------------------------------------------------------

    def progress(self) -> float:
        """Return how much of the run is done, 0 to 1."""
        if self.options.steps:
            return self.step / self.options.steps
        return self.elapsed / (60 * self.options.minutes)

    def train_step(self) -> dict[str, float]:
        """Do one step on all processes and return its losses."""
        progress = self.progress()
        stage = schedule.stage_at(progress)
        if stage.name != self.stage:
            self.stage, self.stage_step = stage.name, 0
        view = schedule.draw_view(stage, self.options.seed, self.step)
        # Every image of the run has its own seed, also after a resume.
        first = (self.step * self.world + self.rank) * 64
        batch = data.make_batch(
            range(first, first + view.batch), "train", view.size, view.canvas, view.objects
        ).to(self.options.device)
        forward = self.forward if view.size in schedule.COMPILED else self.plain
        visual = forward.see(batch.images)
        dense = self.dense_loss(visual, batch.dense)
        loss = schedule.dense_weight_at(progress) * dense
        losses = {"dense": dense.item()}
        if not stage.tower_only:
            rng = np.random.default_rng([self.options.seed, self.step, 2 + self.rank])
            keep, late = None, 0
            if stage.drops:
                keep, late = schedule.draw_keep(len(visual), visual.shape[1], rng)
                keep = keep.to(visual.device)
            hidden, middle = forward.read(visual, batch.rows, batch.tokens, keep, late)
            answer, place = self.answer_loss(hidden, batch), self.place_loss(middle, batch.rows)
            loss = loss + answer + 0.5 * place
            losses |= {"answer": answer.item(), "place": place.item()}
        loss.backward()
        self._share_gradients()
        nn.utils.clip_grad_norm_([p for p in self.params if p.grad is not None], 1.0)
        rate = self.options.lr * schedule.rate_at(progress, self.step, self.stage_step)
        for optimiser in (self.muon, self.adam):
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.stage_step += 1
        self.images += view.batch * self.world
        return losses | {"lr": rate}

    def dense_loss(self, visual: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of naming what each visual token shows; empty tokens weigh little."""
        parts = self.dense(visual).split(data.DENSE, -1)
        total = visual.new_zeros(())
        for part, label, empty in zip(parts, labels.unbind(-1), (0.15, 0.15, 0.03, 0.03), strict=True):
            weight = torch.ones(part.shape[-1], device=part.device)
            weight[0] = empty
            total = total + F.cross_entropy(part.flatten(0, 1), label.flatten(), weight)
        return total

    def place_loss(self, middle: list[Tensor], rows: int) -> Tensor:
        """Return the squared error of telling where each visual token (B, N, D) is, summed.

        A visual token learns its place in the image only from the decoder's rotary angles; without
        this loss that, and the questions that need it, come very late.
        """
        total = torch.zeros((), device=self.options.device)
        for head, x in zip(self.place, middle, strict=False):  # a small model may lack a layer
            cell, columns = torch.arange(x.shape[1], device=x.device), x.shape[1] // rows
            goal = torch.stack((cell // columns, cell % columns), -1) / 6 - 1
            total = total + (head(x) - goal).pow(2).mean()
        return total

    def answer_loss(self, hidden: Tensor, batch: data.Batch) -> Tensor:
        """Return the weighted cross-entropy of the answer tokens and the end after them."""
        asked = batch.targets != data.IGNORE
        weights = batch.weights[asked]
        logits = self.plain.logits(hidden[asked])
        loss = F.cross_entropy(logits, batch.targets[asked], reduction="none")
        return (loss * weights).sum() / weights.sum()

    def _share_gradients(self) -> None:
        if self.world == 1:
            return
        grads = [p.grad for p in self.params if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        flat /= self.world
        for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            g.copy_(part.view_as(g))

    # --- looking, saving ------------------------------------------------------------------------

    def validate(self, size: int, batches: int = 4) -> dict[str, float]:
        """Return the accuracy on scenes with unseen handwriting, in all and by group."""
        count = torch.zeros(2, len(GROUPS))
        per = 24 if size == 112 else 16
        for i in range(self.rank, batches * self.world, self.world):
            seeds = range(10**6 + per * i, 10**6 + per * (i + 1))
            batch = data.make_batch(seeds, "test", size, 168 if self.stage == "mixed" else size)
            batch = batch.to(self.options.device)
            # The gradient mode stays on: without it the layers would be compiled once more.
            visual = self.forward.see(batch.images)
            hidden, _ = self.forward.read(visual, batch.rows, batch.tokens, None)
            guess = self.forward.logits(hidden.detach()).argmax(-1)
            graded = (batch.targets != data.IGNORE) & (batch.weights > 0.11)
            right = ((guess == batch.targets) | ~graded).all(-1).cpu()
            for g in range(len(GROUPS)):
                mine = batch.groups.cpu() == g
                count[0, g] += right[mine].sum()
                count[1, g] += mine.sum()
        if self.world > 1:
            dist.all_reduce(count)
        result = {f"accuracy_{size}": (count[0].sum() / count[1].sum()).item()}
        share = (count[0] / count[1]).tolist()
        return result | {group: round(x, 3) for group, x in zip(GROUPS, share, strict=True)}

    def save(self) -> None:
        """Write the checkpoint, replacing the last one at once."""
        state = {
            "model": self.model.state_dict(),
            "dense": self.dense.state_dict(),
            "place": self.place.state_dict(),
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
        for name in ("model", "dense", "place", "muon", "adam"):
            getattr(self, name).load_state_dict(state[name])
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
            ended = self.progress() >= 1
            if ended or self.elapsed - looked > self.options.validate_every:
                looked = self.elapsed
                if self.stage != "tower":
                    size = 168 if self.stage == "mixed" else 112
                    self.log({"step": self.step, "seconds": round(looked)} | self.validate(size))
                if self.rank == 0:
                    self.save()
        if self.rank == 0:
            models.export(self.model, self.options.out / "model")


def _work(rank: int, world: int, options: Options, store: str) -> None:
    if options.device == "cpu":
        torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    Trainer(options, rank, world).run()
    if world > 1:
        dist.destroy_process_group()


def train(options: Options) -> None:
    """Run a training with as many processes as asked (one on a GPU)."""
    options.out.mkdir(parents=True, exist_ok=True)
    world = options.processes if options.device == "cpu" else 1
    if world == 1:
        _work(0, 1, options, "")
        return
    store = options.out / f"meeting-{os.getpid()}"
    mp.spawn(_work, (world, options, str(store.resolve())), nprocs=world)
    store.unlink(missing_ok=True)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m autotc.proxies.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="work folder")
    parser.add_argument("--minutes", type=float, default=98.0, help="length of the schedule")
    parser.add_argument("--steps", type=int, help="length in steps instead of minutes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--processes", type=int, default=2, help="on cpu")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="plain fp32")
    train(Options(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
