"""What serving engines can run of a policy: sites, reducers, families and positions, each with its source.

A policy runs anywhere where `autotc.compress` reaches the model, which is `hf`. Other engines have what is listed
here, read from their documentation and source in September 2026; nothing of it was run on those engines. What no
source shows is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from autotc.anatomy import Anatomy
from autotc.errors import SpecError
from autotc.policy import Policy, Stage
from autotc.registry import nearest
from autotc.workload import Workload

Deploy = Literal["hf", "vllm", "openvino"]
ANY = "any"

# Lines that say how an engine is set up for a stage, given the stage before it (None: there is none).
HowTo = Callable[[Stage, Stage | None, Anatomy, Workload], list[str]]


def _smaller_images(stage: Stage, before: Stage | None, full: Anatomy, workload: Workload) -> list[str]:
    rule, unit = full.image, full.image.patch * full.image.merge
    lines = []
    for width, height in dict.fromkeys((r.width, r.height) for r in workload.requests):
        grid = rule.grid(width, height)
        rows, columns = rule.within(grid, stage.tokens(grid[0] * grid[1]))
        lines.append(
            f"Send each image of {width}x{height} pixels as {columns * unit}x{rows * unit} "
            f"({rows * columns} of {grid[0] * grid[1]} visual tokens)."
        )
        if rows * columns * unit**2 < rule.min_pixels:
            lines.append(
                f"The engine's image processor enlarges what has less than {rule.min_pixels} pixels: set min_pixels "
                f"(newer files: size.shortest_edge) to {unit**2} in its preprocessor_config.json."
            )
    lines.append(
        f"Other images: both sides times {stage.keep**0.5:.2f}, rounded to multiples of {unit} pixels."
    )
    return lines


def _cdpruner(stage: Stage, before: Stage | None, full: Anatomy, workload: Workload) -> list[str]:
    request = workload.requests[0]
    original = full.visual_tokens(request.width, request.height, request.images) // request.images
    here = original
    if before is not None:
        rows, columns = full.image.within(
            full.image.grid(request.width, request.height), before.tokens(original)
        )
        here = rows * columns
    wanted = stage.tokens(original)
    ratio = next((p for p in range(1, 100) if _kept_by_openvino(here, p) <= wanted), 99)
    return [
        "config = openvino_genai.GenerationConfig()",
        f"config.pruning_ratio = {ratio}  # in whole percent: keeps {_kept_by_openvino(here, ratio)} of {here} tokens, "
        f"the policy {wanted}",
        "config.relevance_weight = 1.0  # as published; OpenVINO's default weighs relevance less",
        "pipe.generate(prompt, images=images, generation_config=config)",
        "Start the process with CDPRUNER_SPLIT_THRESHOLD=0: by default OpenVINO chooses from two halves of the image.",
    ]


def _kept_by_openvino(tokens: int, percent: int) -> int:
    """It rounds to the nearest, then up to an even number (cdpruner.cpp)."""
    kept = int(tokens * (1 - percent / 100) + 0.5)
    return kept + kept % 2


@dataclass(frozen=True)
class Ability:
    """One way in which an engine takes visual tokens away.

    Args:
        site, reducer: `ANY` for all.
        families: model families, `(ANY,)` for all.
        positions: of the tokens kept.
        set_by: what the user sets, in a few words.
        sources: pages and threads.
        how: the lines that set it for one stage.
    """

    site: str
    reducer: str
    families: tuple[str, ...]
    positions: tuple[str, ...]
    set_by: str
    sources: tuple[str, ...] = ()
    how: HowTo = field(default=lambda *_: [], repr=False)

    def covers(self, family: str, site: str, reducer: str) -> bool:
        """Whether it runs a reducer at a site of a family."""
        return (
            self.site in (ANY, site)
            and self.reducer in (ANY, reducer)
            and (ANY in self.families or family in self.families)
        )


@dataclass(frozen=True)
class Engine:
    """A serving engine.

    Args:
        name: as `--deploy` takes it.
        title: as it calls itself.
        abilities: what it can run; nothing else.
        without: what it cannot do, or is not known to, in a sentence.
        sources: of that sentence.
    """

    name: Deploy
    title: str
    abilities: tuple[Ability, ...]
    without: str
    sources: tuple[str, ...] = ()

    def runs(self, family: str, site: str, reducer: str) -> bool:
        """Whether it runs a reducer at a site of a family."""
        return any(a.covers(family, site, reducer) for a in self.abilities)

    def positions(self, family: str) -> tuple[str, ...]:
        """Return the positions that some ability of a family has."""
        mine = [a for a in self.abilities if ANY in a.families or family in a.families]
        return tuple(dict.fromkeys(p for a in mine for p in a.positions))

    def refusals(self, policy: Policy) -> tuple[str, ...]:
        """Return a line for each thing in a policy that it cannot run; none: it runs it."""
        found, family = [], policy.model.family
        for i, stage in enumerate(policy.stages):
            at = f"stages[{i}]: {stage.reducer} at {stage.site}" + (
                "" if stage.layer is None else f" layer {stage.layer}"
            )
            mine = [a for a in self.abilities if a.covers(family, stage.site, stage.reducer)]
            if not mine:
                found.append(f"{at}: {self.title} runs {self.allowed(family)}")
            elif all(policy.positions not in a.positions for a in mine):
                found.append(f"{at}: {self.title} keeps {' or '.join(mine[0].positions)} positions only")
        return tuple(found)

    def allowed(self, family: str) -> str:
        """Return in words what it runs of a family."""
        mine = [a for a in self.abilities if ANY in a.families or family in a.families]
        if any(a.site == ANY for a in mine):
            return "every site and reducer"
        return ", ".join(f"{a.reducer} at {a.site}" for a in mine) or f"no reduction of {family}"

    def how_to(self, policy: Policy, full: Anatomy, workload: Workload) -> list[str]:
        """Return the lines that set the engine up for a policy which it runs.

        Args:
            full: the model that the policy is for.
            workload: whose image sizes are spelled out.
        """
        lines: list[str] = []
        for before, stage in zip((None, *policy.stages), policy.stages, strict=False):
            ability = next(
                a for a in self.abilities if a.covers(policy.model.family, stage.site, stage.reducer)
            )
            lines += ability.how(stage, before, full, workload)
        return lines


_QWEN = ("qwen2_5_vl", "qwen3_vl")
_VLLM, _OPENVINO = (
    f"https://github.com/{name}" for name in ("vllm-project/vllm", "openvinotoolkit/openvino.genai")
)

ENGINES: dict[str, Engine] = {
    e.name: e
    for e in (
        Engine(
            "hf",
            "Hugging Face transformers",
            (Ability(ANY, ANY, (ANY,), ("original", "compact"), "autotc.compress(model, policy)"),),
            "",
        ),
        Engine(
            "vllm",
            "vLLM",
            (
                Ability(
                    "input",
                    "downsample",
                    _QWEN,
                    ("original", "compact"),
                    "the size of the images sent, or --mm-processor-kwargs",
                    (f"{_VLLM}/pull/9612", f"{_VLLM}/issues/13184"),
                    _smaller_images,
                ),
            ),
            "Its pruning (--video-pruning-rate, --video-retention-ratio) is of videos only; that of image tokens is a "
            "proposal, and cutting inside the language model breaks its cache. LLaVA-1.5 takes image embeddings made "
            "elsewhere, of any number; autotc has no such encoder, so that is left out.",
            (
                f"{_VLLM}/pull/47750",
                f"{_VLLM}/pull/38888",
                f"{_VLLM}/issues/45098",
                f"{_VLLM}/issues/25756",
                "https://docs.vllm.ai/en/latest/features/multimodal_inputs/",
            ),
        ),
        Engine(
            "openvino",
            "OpenVINO GenAI",
            (
                Ability(
                    "input",
                    "downsample",
                    _QWEN,
                    ("original", "compact"),
                    "the size of the images sent",
                    (f"{_OPENVINO}/blob/master/src/cpp/src/visual_language/qwen2vl/classes.cpp",),
                    _smaller_images,
                ),
                Ability(
                    "projector",
                    "cdpruner",
                    _QWEN,
                    ("original",),
                    "GenerationConfig.pruning_ratio, in whole percent",
                    (
                        "https://openvinotoolkit.github.io/openvino.genai/docs/concepts/optimization-techniques/"
                        "visual-token-pruning",
                        f"{_OPENVINO}/pull/3084",
                        f"{_OPENVINO}/pull/3499",
                    ),
                    _cdpruner,
                ),
            ),
            "It prunes once, behind the image encoder, on Qwen-VL models only, to an even number of tokens. Text that "
            "follows an image goes on after the last token kept, which may lie before the image's last one.",
            (f"{_OPENVINO}/blob/master/src/cpp/src/visual_language/cdpruner/cdpruner.cpp",),
        ),
    )
}


def engine(name: str, option: str = "--deploy") -> Engine:
    """Return an engine by name.

    Raises:
        SpecError: unknown; the message proposes the nearest.
    """
    if name not in ENGINES:
        raise SpecError(
            f"{option}: unknown engine {name!r}. {nearest(name, ENGINES)} See: autotc list engines"
        )
    return ENGINES[name]


def engine_of(name: str, family: str) -> Engine:
    """Return an engine that can run some reduction of a family.

    Raises:
        SpecError: unknown, or it is not known to.
    """
    found = engine(name)
    if not found.positions(family):
        families = sorted({f for a in found.abilities for f in a.families})
        raise SpecError(
            f"--deploy {name}: {found.title} is not known to run any reduction of the family {family!r}, only of "
            f"{', '.join(families)}. Use --deploy hf, or such a model. See: autotc list engines"
        )
    return found


def check_reducers(deploy: str, reducers: Sequence[str]) -> None:
    """Refuse reducers that an engine runs nowhere.

    Raises:
        SpecError: the first of them; the message says what the engine runs.
    """
    target = engine(deploy)
    known = {a.reducer for a in target.abilities}
    for name in reducers:
        if ANY not in known and name not in known:
            runs = ", ".join(sorted({f"{a.reducer} at {a.site}" for a in target.abilities}))
            raise SpecError(
                f"--deploy {deploy}: {target.title} cannot run {name!r}; it runs {runs}. Leave the reducer out, or use "
                "--deploy hf. See: autotc list engines"
            )


def check_policy(deploy: str, policy: Policy) -> None:
    """Refuse a policy that an engine cannot run.

    Raises:
        SpecError: the message names the stages, and what the engine runs instead.
    """
    target = engine(deploy)
    refusals = target.refusals(policy)
    if refusals:
        raise SpecError(f"--deploy {deploy}: {'; '.join(refusals)}. See: autotc list engines")


def rows() -> list[dict[str, Any]]:
    """Return what `autotc list engines` says, one row an ability."""
    return [
        {
            "engine": e.name,
            "title": e.title,
            "site": a.site,
            "reducer": a.reducer,
            "families": list(a.families),
            "positions": list(a.positions),
            "set_by": a.set_by,
            "sources": list(a.sources),
            "without": e.without,
            "without_sources": list(e.sources),
        }
        for e in ENGINES.values()
        for a in e.abilities
    ]
