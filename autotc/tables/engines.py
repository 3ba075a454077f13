"""Policies for serving engines: what cannot leave for one, and how one is set up for what can."""

from __future__ import annotations

from collections.abc import Sequence

from autotc.deploy import engine
from autotc.errors import ModelError, SpecError
from autotc.export import Member
from autotc.policy import Policy
from autotc.workload import Workload


def check_engine(deploy: str, policy: Policy, front: Sequence[Member], split: str) -> None:
    """Refuse a policy that an engine cannot run, naming the best member of a front that it can.

    Raises:
        SpecError: unknown engine, or the stages that it cannot run.
    """
    target = engine(deploy)
    refusals = target.refusals(policy)
    if not refusals:
        return
    runs = [m for m in front if not target.refusals(m.policy)]
    instead = (
        f"Take --trial {max(runs, key=lambda m: m.value('quality', split)).trial}, the best of the front that it runs"
        if runs
        else f"No member of the front runs there; search with --deploy {deploy}"
    )
    raise SpecError(f"--deploy {deploy}: {'; '.join(refusals)}. {instead}. See: autotc list engines")


def how_to(deploy: str, policy: Policy) -> list[str]:
    """Return the lines that set an engine up for a policy which it runs; none for transformers."""
    from autotc.adapter import resolve_model

    if deploy == "hf":
        return []
    load = policy.provenance.get("workload")
    try:
        full = resolve_model(str(policy.model.id)).anatomy
    except ModelError as error:
        return [f"How to set it up depends on the model's image sizes, which are not at hand: {error}"]
    return engine(deploy).how_to(policy, full, Workload.from_dict(load) if load else Workload())
