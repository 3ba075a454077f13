"""The stages of a policy as steps with built reducers, and what was decided in one prefill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from autotc._signals import TOWER
from autotc.assignment import Assignment
from autotc.policy import Policy, Stage
from autotc.reducer import SIGNALS, Reducer, TokenView, make_reducer, resolve_needs


@dataclass(frozen=True)
class Step:
    """One stage: its place in the policy, the built reducer, the signals to compute for it."""

    index: int
    stage: Stage
    reducer: Reducer
    needs: tuple[str, ...]


class Plan:
    """All steps of a policy, found by site and layer."""

    def __init__(self, policy: Policy, signals_absent: tuple[str, ...] = ()) -> None:
        available = set(SIGNALS) - set(signals_absent)
        self.steps = tuple(
            Step(
                i,
                stage,
                reducer := make_reducer(stage.reducer, stage.params),
                resolve_needs(type(reducer), available)[0],
            )
            for i, stage in enumerate(policy.stages)
        )

    def at(self, site: str, layer: int | None = None) -> Step | None:
        """Return the step at a site (and layer), if there is one."""
        for step in self.steps:
            if step.stage.site == site and step.stage.layer == layer:
                return step
        return None

    def of(self, site: str) -> tuple[Step, ...]:
        """Return the steps of a site, in order."""
        return tuple(step for step in self.steps if step.stage.site == site)

    def watching(self, site: str, layer: int) -> tuple[Step, ...]:
        """Return for each stateful reducer that observes this layer its next step: it looks at the layers between
        its stages, and at some before its first one.
        """
        out = []
        for name in dict.fromkeys(s.stage.reducer for s in self.of(site) if s.reducer.stateful):
            mine = [s for s in self.of(site) if s.stage.reducer == name]
            later = [s for s in mine if (s.stage.layer or 0) > layer]
            cuts_here = any(s.stage.layer == layer for s in mine)
            if later and not cuts_here and layer >= first_observed(mine[0]):
                out.append(later[0])
        return tuple(out)

    def tower_signals(self) -> set[str]:
        """Return the signals of the vision side that the sites behind it need."""
        needs = self.needs("projector", "decoder")
        return {name for name in needs if name in TOWER} | (
            {"features"} if "clip_patches" in needs else set()
        )

    def needs(self, *sites: str) -> set[str]:
        """Return the signals that the steps of some sites need."""
        return {need for site in sites for step in self.of(site) for need in step.needs}


def first_observed(step: Step) -> int:
    """Return the first layer that a step's reducer looks at, when the step is its first one."""
    before = step.reducer.observes if step.reducer.stateful else 0
    return max(1, (step.stage.layer or 0) - before)


@dataclass
class Ledger:
    """What one prefill decides: an assignment a stage (none where it changed nothing) and asked and kept
    counts.

    Args:
        replay: decisions to repeat instead of asking the reducers, e.g. those of another question on the
            same image.
    """

    replay: Mapping[int, Assignment | None] | None = None
    decisions: dict[int, Assignment | None] = field(default_factory=dict)
    trace: list[dict[str, Any]] = field(default_factory=list)
    state: dict[str, dict[str, Any]] = field(default_factory=dict)

    def decide(self, step: Step, view: TokenView, original: list[int]) -> Assignment | None:
        """Return the assignment of a stage, or None where every image already has no more than it may keep.

        Args:
            step: the stage.
            view: the tokens as its reducer sees them.
            original: tokens of each image before any stage.
        """
        asked = torch.tensor([step.stage.tokens(n) for n in original], device=view.x.device)
        if self.replay is not None and step.index in self.replay:
            assignment = self.replay[step.index]
        elif bool((view.counts <= asked).all()):
            assignment = None
            if step.reducer.stateful:
                self.observe(step, view)  # nothing to cut, but the layer counts for later ones
        else:
            view.state = self.state.setdefault(step.stage.reducer, view.state)
            assignment = step.reducer.assign(view, asked)
        kept = view.counts if assignment is None else assignment.kept
        self.note(step, asked, kept)
        self.decisions[step.index] = assignment
        return assignment

    def observe(self, step: Step, view: TokenView) -> None:
        """Show a layer to a stateful reducer, which cuts later."""
        view.state = self.state.setdefault(step.stage.reducer, view.state)
        step.reducer.observe(view)

    def note(self, step: Step, asked: Tensor, kept: Tensor) -> None:
        """Write down how many tokens a stage was asked to keep and kept, one number an image."""
        self.trace.append({"stage": step.index, "asked": asked, "kept": kept})
