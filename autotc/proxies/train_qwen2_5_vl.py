"""How ``qwen2_5_vl-tiny`` is trained: losses of a step, and the look at validation scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from autotc.proxies import data, losses, schedule
from autotc.proxies import model as models
from autotc.proxies.forward import MIDDLE, Forward
from autotc.proxies.runner import Options, Runner, matrices_of
from autotc.tasks.scenes import GROUPS


class Trainer(Runner):
    """Trains ``qwen2_5_vl-tiny``."""

    minutes = 98.0
    sizes: ClassVar[dict[str, int]] = {}

    def __init__(self, options: Options, rank: int = 0, world: int = 1) -> None:
        torch.manual_seed(options.seed)
        self.model = models.build(**(self.sizes | (options.sizes or {}))).to(torch.device(options.device))  # type: ignore[arg-type]
        dtype = torch.bfloat16 if options.compile else torch.float32
        self.forward = Forward(self.model, dtype, compiled=options.compile)
        self.plain = Forward(self.model, dtype)  # for sizes too rare to compile
        width = self.model.config.text_config.hidden_size
        self.dense = nn.Linear(width, sum(data.DENSE)).to(options.device)
        self.place = nn.ModuleList(nn.Linear(width, 2) for _ in MIDDLE).to(options.device)
        inner = self.model.model
        matrices = matrices_of([inner.visual.blocks, inner.visual.merger, inner.language_model.layers])
        parts = {"model": self.model, "dense": self.dense, "place": self.place}
        super().__init__(options, rank, world, parts, matrices)
        self.stage = self.stages[0].name

    @property
    def stages(self) -> tuple[schedule.Stage, ...]:
        """What is trained when."""
        return schedule.STAGES

    def train_step(self) -> dict[str, float]:
        """Do one step on all processes and return its losses."""
        progress = self.progress()
        stage = schedule.stage_at(progress, self.stages)
        if stage.name != self.stage:
            self.stage, self.stage_step = stage.name, 0
        view = schedule.draw_view(stage, self.options.seed, self.step)
        seeds = self.scene_seeds(view.batch)
        batch = data.make_batch(seeds, "train", view.size, view.canvas, view.objects)
        batch = batch.to(self.options.device)
        forward = self.forward if view.size in schedule.COMPILED else self.plain
        visual = forward.see(batch.images)
        dense = losses.dense_loss(self.dense, visual, batch.dense)
        loss = schedule.dense_weight_at(progress, stage) * dense
        means = {"dense": dense.item()}
        if not stage.tower_only:
            rng = np.random.default_rng([self.options.seed, self.step, 2 + self.rank])
            keep, late = None, 0
            if stage.drops:
                keep, late = schedule.draw_keep(len(visual), visual.shape[1], rng)
                keep = keep.to(visual.device)
            hidden, middle = forward.read(visual, batch.rows, batch.tokens, keep, late)
            logits = forward.logits(hidden[batch.targets != data.IGNORE])
            answer = losses.answer_loss(logits, batch)
            place = losses.place_loss(self.place, middle, batch.rows)
            loss = loss + answer + 0.5 * place
            means |= {"answer": answer.item(), "place": place.item()}
        rate = self.update(loss, schedule.rate_at(progress, self.step, self.stage_step))
        self.images += view.batch * self.world
        return means | {"lr": rate}

    def look(self) -> dict[str, Any]:
        """Return the accuracy on scenes of the stage's size, nothing while the tower learns alone."""
        if self.stage == "tower":
            return {}
        return self.validate(168 if self.stage == "mixed" else 112)

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
            count += losses.grade(self.forward.logits(hidden.detach()), batch)
        return losses.shares(self.total(count), f"accuracy_{size}")

    def export(self, out: Path) -> None:
        """Write the model as a Hugging Face folder."""
        models.export(self.model, out)


class SmallTrainer(Trainer):
    """Trains a model as deep as ``qwen2_5_vl-tiny``, but narrower and on small scenes only."""

    minutes = 22.0
    sizes: ClassVar[dict[str, int]] = {"width": 128, "tower_width": 96}

    @property
    def stages(self) -> tuple[schedule.Stage, ...]:
        """What is trained when."""
        return schedule.SMALL_STAGES
