"""How ``llava-tiny`` is trained: CLIP first, then projector and language model on the frozen tower.

CLIP learns from captions and phrases of scenes. Contrastive training for some minutes cannot give fine
detail, so the patch rows that LLaVA will read also learn, in a helper thrown away afterwards, to name
what they show. The language model then learns as that of ``qwen2_5_vl-tiny``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autotc.proxies import captions, data, llava, losses, schedule
from autotc.proxies.llava_forward import LlavaForward
from autotc.proxies.pointing import color_loss, pointing_loss
from autotc.proxies.runner import Options, Runner, matrices_of
from autotc.proxies.schedule import Stage, View
from autotc.proxies.watch_clip import Watch
from autotc.tasks.scenes import GROUPS, Scene

STAGES = (
    Stage(
        "tower",
        0.37,
        (View(168, 168, 48), View(112, 168, 48), View(112, 112, 48, (2, 4))),
        (0.84, 0.08, 0.08),
        tower_only=True,
    ),
    Stage("small", 0.46, (View(112, 112, 24, (2, 4)),)),
    Stage(
        "all",
        1.0,
        (View(168, 168, 16), View(168, 168, 16, (6, 9)), View(112, 168, 24), View(112, 112, 24, (2, 4))),
        (0.5, 0.25, 0.1, 0.15),
        drops=True,
    ),
)
# For models that only ever see small scenes, of which several are trained with different seeds.
SMALL_STAGES = (
    Stage("tower", 0.53, (View(112, 112, 24, (2, 4)),), tower_only=True),
    Stage("small", 0.82, (View(112, 112, 16, (2, 4)),)),
    Stage("drops", 1.0, (View(112, 112, 16, (2, 4)),), drops=True),
)
DROP_SHARE = 0.125
# Weights of groups of questions that are learned last.
SLOW = {"count": 3.0, "relation": 2.0, "read_place": 2.0, "read_tag": 3.0, "digit_by_color": 2.0}
LATE = (9, 13)  # layers from which on some images lose all visual tokens
HOLD = 0.55  # part of each of the two trainings before its learning rate falls to 0


def rate_at(progress: float, border: float, stage_step: int) -> float:
    """Return the factor on the learning rate: once for CLIP, once, from ``border``, for the language model."""
    part = progress / border if progress < border else (progress - border) / (1 - border)
    warm = min(1.0, (stage_step + 1) / 50)
    return warm * min(1.0, max(0.0, (1 - part) / (1 - HOLD)))


class LlavaTrainer(Runner):
    """Trains ``llava-tiny``."""

    minutes = 110.0
    sizes: ClassVar[dict[str, int]] = {}

    def __init__(self, options: Options, rank: int = 0, world: int = 1) -> None:
        torch.manual_seed(options.seed)
        self.model, self.clip = llava.build(**(self.sizes | (options.sizes or {})))
        self.model.to(torch.device(options.device))  # type: ignore[arg-type]
        self.clip.to(options.device)
        dtype = torch.bfloat16 if options.compile else torch.float32
        self.forward = LlavaForward(self.model, dtype, compiled=options.compile)
        self.plain = LlavaForward(self.model, dtype)  # for looks, whose batches are of other sizes
        inner: Any = self.model.model
        self.dense = nn.Linear(inner.vision_tower.config.hidden_size, sum(data.DENSE) + 2).to(options.device)
        self.place = nn.ModuleList(
            nn.Linear(inner.language_model.config.hidden_size, 2) for _ in LlavaForward.middle
        ).to(options.device)
        blocks = [inner.vision_tower.encoder, inner.language_model.layers, inner.multi_modal_projector]
        matrices = matrices_of([*blocks, self.clip.model.text_model.encoder])
        parts = {"model": self.model, "clip": self.clip, "dense": self.dense, "place": self.place}
        super().__init__(options, rank, world, parts, matrices)
        self.side: int = inner.vision_tower.config.image_size
        self.stage = self.stages[0].name

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What is trained when."""
        return STAGES

    def train_step(self) -> dict[str, float]:
        """Do one step on all processes and return its losses."""
        progress = self.progress()
        stage = schedule.stage_at(progress, self.stages)
        if stage.name != self.stage:
            self.stage, self.stage_step = stage.name, 0
        view = schedule.draw_view(stage, self.options.seed, self.step)
        seeds = self.scene_seeds(view.batch)
        drawn = data.draw(seeds, "train", view.size, view.canvas, view.objects)
        loss, means = (
            self.clip_loss(drawn, seeds.start) if stage.tower_only else self.language_loss(drawn, stage)
        )
        rate = self.update(loss, rate_at(progress, self.stages[0].until, self.stage_step))
        self.images += view.batch * self.world
        return means | {"lr": rate}

    def clip_loss(self, drawn: list[Scene], seed: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of CLIP and of the patches' own detail, and its parts."""
        batch = data.pack(drawn).to(self.options.device)
        texts = captions.write(drawn, seed).to(self.options.device)
        *_, before, after = self.forward.states(batch.images)
        rows = self.forward.clip_rows(self.clip, after)
        said = self.forward.clip_texts(self.clip, torch.cat((texts.captions, texts.wrong)))
        phrases = self.forward.clip_texts(self.clip, texts.phrases)
        scale = self.clip.logit_scale.clamp(max=4.6052).exp()
        parts = {
            "caption": caption_loss(scale * rows[:, 0] @ said.T),
            "phrase": phrase_loss(rows[:, 1:], phrases, texts.holds, scale),
            "dense": losses.dense_loss(lambda x: self.dense(x)[..., :-2], before[:, 1:], batch.dense),
            "place": losses.place_loss(
                [lambda x: self.dense(x)[..., -2:]], [before[:, 1:]], batch.rows, True
            ),
        }
        weights = {"caption": 0.5, "phrase": 0.5, "dense": 1.0, "place": 0.5}
        loss = sum((weights[name] * part for name, part in parts.items()), torch.zeros(()))
        return loss, {name: part.item() for name, part in parts.items()}

    def language_loss(self, drawn: list[Scene], stage: Stage) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of the answers and of the visual tokens' places, and its parts."""
        batch = data.pack(drawn, SLOW).to(self.options.device)
        visual = self.forward.see(batch.images)
        keep, late = None, 0
        if stage.drops:
            rng = np.random.default_rng([self.options.seed, self.step, 2 + self.rank])
            keep, late = schedule.draw_keep(len(visual), visual.shape[1], rng, DROP_SHARE, LATE)
            keep = keep.to(visual.device)
        hidden, middle = self.forward.read(visual, batch.rows, batch.tokens, keep, late)
        logits = self.forward.logits(hidden[batch.targets != data.IGNORE])
        answer = losses.answer_loss(logits, batch)
        place = losses.place_loss(self.place, middle, batch.rows, relative=True)
        point = pointing_loss(self.forward, drawn, batch)
        color = color_loss(self.forward, drawn, batch)
        parts = {"answer": answer, "place": place, "point": point, "color": color}
        loss = answer + 0.5 * place + 0.3 * point + 0.3 * color
        return loss, {name: part.item() for name, part in parts.items()}

    def look(self) -> dict[str, Any]:
        """Return what CLIP sees, then the accuracy, on scenes with unseen handwriting."""
        if self.stage == self.stages[0].name:
            watch = Watch(self.plain, self.clip, self.dense)
            for i in range(2):
                first = 10**6 + 32 * (2 * self.rank + i)
                watch.add(data.draw(range(first, first + 32), "test", self.side), first)
            watch.sums = self.total(watch.sums)
            return watch.result()
        count = torch.zeros(2, len(GROUPS))
        per = self.stages[-1].views[0].batch  # a size that is compiled
        for i in range(self.rank, 8, self.world):
            batch = data.make_batch(range(10**6 + per * i, 10**6 + per * (i + 1)), "test", self.side)
            batch = batch.to(self.options.device)
            # The gradient mode stays on: without it the layers would be compiled once more.
            hidden, _ = self.forward.read(self.forward.see(batch.images), batch.rows, batch.tokens, None)
            count += losses.grade(self.forward.logits(hidden.detach()), batch)
        return losses.shares(self.total(count), f"accuracy_{self.side}")

    def export(self, out: Path) -> None:
        """Write model and text encoder as Hugging Face folders."""
        llava.export(self.model, self.clip, out)


class SmallLlavaTrainer(LlavaTrainer):
    """Trains a model as deep as ``llava-tiny``, but narrower, on small scenes and 8 x 8 patches only."""

    minutes = 26.0
    sizes: ClassVar[dict[str, int]] = {"width": 128, "heads": 4, "tower_width": 128, "side": 112}

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What is trained when."""
        return SMALL_STAGES


def caption_loss(scores: Tensor) -> Tensor:
    """Return CLIP's loss, image to text and text to image.

    Args:
        scores: (B, 2 B) of images with all captions, the wrong ones last.
    """
    goal = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, goal) + F.cross_entropy(scores[:, : len(scores)].T, goal)) / 2


def phrase_loss(patches: Tensor, phrases: Tensor, holds: Tensor, scale: Tensor) -> Tensor:
    """Return the loss of finding the image of a phrase by its best patches.

    A text about one thing is compared with the patches instead of the CLS row. The patch that shows the
    thing must be *far* from the text: so it is in CLIP, where nobody asked for it, and methods that use
    CLIP's text count on it. Other images of which the phrase also holds are left out.

    Args:
        patches: (B, N, P) of length 1.
        phrases: (B * n, P) of length 1, image by image.
        holds: (B * n, B) bool.
        scale: () factor on cosines.
    """
    b = len(patches)
    cosines = torch.einsum("bnp,qp->qbn", patches, phrases)
    scores = torch.logsumexp(-scale * cosines, -1)
    own = torch.arange(len(phrases), device=phrases.device) // (len(phrases) // b)
    others = holds & ~F.one_hot(own, b).bool()
    return F.cross_entropy(scores.masked_fill(others, -1e4), own)
