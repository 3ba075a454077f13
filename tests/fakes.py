"""Stand-ins that make a whole search run in seconds: two anatomies, and an evaluator with a known front."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from autotc._outcomes import Outcomes, numbers
from autotc.anatomy import Anatomy, DecoderAnatomy, ImageRule, VisionAnatomy
from autotc.policy import Number, Policy

FULL = Anatomy(
    family="qwen2_5_vl",
    id="Qwen/Qwen2.5-VL-7B-Instruct",
    image=ImageRule(14, 2, None, 3136, 12845056),
    vision=VisionAnatomy(
        32, 32, 1280, 16, 3420, 3, 0, 64, (7, 15, 23, 31), 1176, ((5120, 5120), (5120, 3584))
    ),
    decoder=DecoderAnatomy(28, 3584, 28, 4, 128, 18944, 152064),
    parameters=8_292_166_656,
)
PROXY = replace(
    FULL,
    id="proxy",
    decoder=replace(FULL.decoder, layers=14),
    vision=replace(FULL.vision, blocks=8, blocks_used=8, full_blocks=(3, 7)),
)

# How much of a token's worth a reducer saves when it keeps the fraction k: k ** exponent. Small is good.
EXPONENTS = {"divprune": 0.06, "fastv": 0.12, "visionzip": 0.2, "tome": 0.4, "downsample": 0.5, "random": 0.6}
OTHERS = 0.35
# The image is read until this share of the decoder's depth; what happens later costs nothing.
READ_UNTIL = 0.7


def true_quality(policy: Policy | None) -> float:
    """Return the expected score of a policy: known in closed form, so the best policies are known too."""
    if policy is None or not policy.stages:
        return 0.95
    depth = policy.model.decoder_layers
    worth, alive, here = 0.0, 1.0, 0.0
    for stage in policy.stages:
        place = min(READ_UNTIL, 0.0 if stage.site != "decoder" else (stage.layer or 0) / depth)
        worth += (place - here) / READ_UNTIL * alive
        here = place
        alive = min(alive, stage.keep ** EXPONENTS.get(stage.reducer, OTHERS) if stage.keep else 0.0)
    worth += (READ_UNTIL - here) / READ_UNTIL * alive
    return 0.25 + 0.7 * worth


@dataclass
class FakeEvaluator:
    """Scores examples of known difficulty: an example is right when the policy's quality exceeds it.

    Args:
        noise: spread of a policy's quality over examples.
        delay_s: time an evaluation takes.
        trouble: called with (policy, split) before each evaluation; may raise.
        size: examples a split has.
    """

    noise: float = 0.02
    delay_s: float = 0.0
    trouble: Callable[[Policy | None, str], None] | None = None
    size: int = 4096
    calls: list[tuple[str | None, str, int, int]] = field(default_factory=list)

    def evaluate(self, policy: Policy | None, split: str, n: int, *, start: int = 0) -> Outcomes:
        """Return outcomes of examples start..start+n-1."""
        if self.trouble is not None:
            self.trouble(policy, split)
        self.calls.append((None if policy is None else policy.id, split, n, start))
        if self.delay_s:
            time.sleep(self.delay_s)
        index = np.arange(start, min(start + n, self.size))
        offset = {"search": 0.11, "selection": 0.37, "held-out": 0.73}[split]
        difficulty = (index * 0.6180339887 + offset) % 1.0
        seed = "full" if policy is None else policy.id
        spread = np.array([_unit(f"{seed}:{split}:{i}") for i in index])
        quality = true_quality(policy) + self.noise * (spread - 0.5)
        correct = (quality > difficulty).astype(float)
        full = (true_quality(None) > difficulty).astype(float)
        return Outcomes(
            split=split,
            on="fake",
            metric="accuracy",
            id=np.array([f"{split}-{i}" for i in index]),
            image=np.array([f"{split}-image-{i // 2}" for i in index]),
            group=np.array(["count" if i % 3 else "read" for i in index]),
            correct=correct,
            full=full,
            blind=(difficulty < 0.25).astype(float),
            agreement=(correct == full).astype(float),
            kl=np.abs(full - correct),
            next_correct=correct,
            answer=np.array([str(i) for i in index]),
            trace=[
                {
                    "site": s.site,
                    "layer": s.layer,
                    "reducer": s.reducer,
                    "asked": 100 * s.keep,
                    "kept": 100 * s.keep,
                }
                for s in (policy.stages if policy else ())
            ],
            seconds=self.delay_s,
        )

    def numbers(self, outcomes: Outcomes) -> list[Number]:
        """Return the figures of an evaluation."""
        return numbers(outcomes)


def fake_evaluator(workers: int) -> FakeEvaluator:
    """Make a fake evaluator; a module-level function, so that worker processes can make one too."""
    return FakeEvaluator()


def slow_evaluator(workers: int) -> FakeEvaluator:
    """The same, each evaluation takes a moment."""
    return FakeEvaluator(delay_s=0.03)


def accept(policy: Policy, anatomy: Anatomy) -> None:
    """Every policy fits."""


def _unit(text: str) -> float:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    value = int.from_bytes(digest, "big") / 2**64
    return value if not math.isnan(value) else 0.5
