"""Which depth of one model is which of another: by the share of layers before it, or by what the layers do.

Two things tell how far a decoder is done with its image at a depth: how much of the last prompt token's attention to
visual tokens lies before it, and how much is lost (KL) when all visual tokens leave there. Mapping by function lets
equal values meet; mapping by relative depth is `policy.map_depth`. The better mapping is the one under which cuts in
the decoder of one model rank like their images on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autotc.anatomy import Anatomy
from autotc.evaluate import Evaluator
from autotc.policy import ModelRef, Policy, Stage, map_depth
from autotc.processing import load_model
from autotc.transfer.measure import BLOCK, SPLIT, SmallScenes
from autotc.transfer.ranks import limits, spearman

CUTS = (("fastv", 0.25), ("fastv", 0.0625), ("divprune", 0.25), ("divprune", 0.0625), ("uniform", 0.125))
RULES = ("relative", "attention", "withdrawal")
Array = np.ndarray


@dataclass
class Depths:
    """What depth means in one model.

    Args:
        model, family: its name and family.
        image: (n,) which image an example is about.
        attention: (L,) share of the last prompt token's attention that each layer gives to visual tokens.
        withdrawal: (L - 1,) mean KL, nats, when all visual tokens leave before layer 1, 2, ...
        correct: (cuts + 1, L - 1, n) uint8, right answers under each of `CUTS`, then under withdrawal, by layer.
    """

    model: str
    family: str
    image: Array
    attention: Array
    withdrawal: Array
    correct: Array

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return len(self.attention)

    def done(self, rule: str) -> Array:
        """Return how much of its work with the image lies before layer 1 .. L - 1, rising from 0 towards 1."""
        if rule == "relative":
            return np.arange(1, self.layers) / self.layers
        if rule == "attention":
            return np.cumsum(self.attention)[:-1] / self.attention.sum()
        # noise may let the loss rise a little with depth; what was done stays done
        return 1 - np.minimum.accumulate(self.withdrawal) / self.withdrawal[0]

    def write(self, path: Path) -> None:
        """Write a compressed .npz."""
        np.savez_compressed(path, **vars(self))

    @staticmethod
    def read(path: Path) -> Depths:
        """Read what `write` wrote."""
        with np.load(path, allow_pickle=False) as file:
            values = {name: file[name] for name in file.files}
        return Depths(**{k: v.item() if v.ndim == 0 else v for k, v in values.items()})


def measure(model: str, folder: Path, done: Callable[[int, int], None] = lambda i, n: None) -> Depths:
    """Measure both functions of depth, and every cut of `CUTS` at every depth, on one block of examples.

    Args:
        model: its name.
        folder: its weights.
        done: called with the layers done and their number.
    """
    attention = visual_attention(folder)
    evaluator = Evaluator(folder, SmallScenes(), on=model, threads=1, batch=BLOCK)
    anatomy = evaluator.anatomy
    right, kl = [], []
    for layer in range(1, anatomy.decoder.layers):
        found = [
            evaluator.evaluate(_cut(anatomy, layer, reducer, keep), SPLIT, BLOCK)
            for reducer, keep in (*CUTS, ("withdraw", 0.0))
        ]
        right.append(np.stack([outcomes.correct.astype(np.uint8) for outcomes in found]))
        kl.append(float(np.nanmean(found[-1].kl)))
        done(layer, anatomy.decoder.layers - 1)
    image = found[-1].image.astype(str)
    return Depths(model, anatomy.family, image, attention, np.array(kl), np.stack(right, 1))


@torch.inference_mode()
def visual_attention(folder: Path, batch: int = 32) -> Array:
    """Return by layer the share of the last prompt token's attention that visual tokens get, (L,).

    Means over heads and one block of examples.
    """
    model, processor = load_model(folder)
    model.set_attn_implementation("eager")
    examples = SmallScenes().examples(SPLIT, BLOCK)
    total: list[Array] = []
    for start in range(0, len(examples), batch):
        part = examples[start : start + batch]
        inputs = processor.inputs([e.load() for e in part], [e.question for e in part])
        out = model(**inputs, output_attentions=True, use_cache=False)
        visual = inputs["input_ids"] == model.config.image_token_id
        places = torch.arange(visual.shape[1])
        last = (inputs["attention_mask"] * places).argmax(-1)
        rows = torch.arange(len(part))
        shares = [(layer[rows, :, last].mean(1) * visual).sum(-1) for layer in out.attentions]
        total.append(torch.stack(shares, 1).numpy())
    return np.concatenate(total).mean(0)


def mapping(rule: str, here: Depths, there: Depths) -> dict[int, int]:
    """Return for each layer of one model the layer of the other that it becomes under a rule of `RULES`.

    By function it is the layer with the nearest value; of equally near ones the first.
    """
    layers = range(1, here.layers)
    if rule == "relative":
        return {layer: map_depth(layer, here.layers, there.layers) for layer in layers}
    mine, other = here.done(rule), there.done(rule)
    return {layer: int(np.abs(other - mine[layer - 1]).argmin()) + 1 for layer in layers}


def compare(
    here: Depths, there: Depths, resamples: int = 400, seed: int = 0
) -> dict[str, Mapping[str, float]]:
    """Return for each rule the rank correlation of cuts with their images on the other model.

    With 95 % limits by a bootstrap of images, of the correlation and of its difference from the relative rule's.

    Args:
        here, there: measured on the same examples; cuts go from the first to the second.
        resamples, seed: of the bootstrap.
    """
    names, index = np.unique(here.image, return_inverse=True)
    counts = np.bincount(index, minlength=len(names)).astype(float)
    mine, other = (_sums(d.correct, index, len(names)) for d in (here, there))
    moved = {
        rule: np.array([mapping(rule, here, there)[layer] - 1 for layer in range(1, here.layers)])
        for rule in RULES
    }

    def found(weights: Array) -> dict[str, float]:
        a, b = (sums @ weights / (counts @ weights) for sums in (mine, other))
        return {rule: spearman(a.ravel(), b[:, to].ravel()) for rule, to in moved.items()}

    rng = np.random.default_rng(seed)
    value = found(np.ones(len(names)))
    draws = [
        found(np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names)).astype(float))
        for _ in range(resamples)
    ]
    out: dict[str, Mapping[str, float]] = {}
    for rule in RULES:
        all_ = np.array([d[rule] for d in draws])
        gain = all_ - np.array([d["relative"] for d in draws])
        low, high = limits(value[rule], all_.tolist())
        margin = 1.96 * gain.std(ddof=1)
        out[rule] = {
            "value": value[rule],
            "low": low,
            "high": high,
            "gain": value[rule] - value["relative"],
            "gain_low": value[rule] - value["relative"] - margin,
            "gain_high": value[rule] - value["relative"] + margin,
        }
    return out


def _sums(correct: Array, index: Array, clusters: int) -> Array:
    """Return right answers by image, (cuts, layers, clusters)."""
    return correct.astype(float) @ np.eye(clusters)[index]


def _cut(anatomy: Anatomy, layer: int, reducer: str, keep: float) -> Policy:
    model = ModelRef(
        family=anatomy.family,
        id=anatomy.id,
        decoder_layers=anatomy.decoder.layers,
        vision_blocks=anatomy.vision.blocks,
    )
    return Policy(model=model, stages=(Stage(site="decoder", layer=layer, reducer=reducer, keep=keep),))
