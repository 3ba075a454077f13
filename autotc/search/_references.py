"""What a study is compared with: the uncompressed model, random tokens, smaller images, published presets."""

from __future__ import annotations

from autotc.cost import placed_preset
from autotc.policy import Policy
from autotc.reducer import Preset, Reducer
from autotc.reducer import reducers as registry
from autotc.search.space import Space

BASELINES = ("random", "downsample")
DOZEN = 12
_FIDELITY = ("faithful", "adapted", "reconstruction")


def references(space: Space, all_presets: bool = False) -> list[tuple[str, Policy]]:
    """Return label and policy of each reference: uncompressed, baselines, presets scaled to the limit.

    Depths are moved to the nearest that the evaluated model shares with the full one, and the preset is
    scaled again to meet the limit. A preset that the family cannot run, or whose stages fall together on a
    shallow proxy, is left out.

    Args:
        space: the space of the study; its limit is what presets are scaled to.
        all_presets: enter every feasible preset, not the first dozen.
    """
    found = [("uncompressed", Policy(model=space.model))]
    presets = [(c, p) for c in registry.all() for p in c.presets]
    baselines = [(c, p) for name in BASELINES for c, p in presets if c.name == name]
    published = sorted(
        ((c, p) for c, p in presets if c.name not in BASELINES),
        key=lambda entry: (
            entry[0].presets.index(entry[1]) > 0,  # a method's main recipe before its others
            _FIDELITY.index(entry[0].fidelity),
            entry[1].name,
        ),
    )
    entered = 0
    for cls, preset in [*baselines, *published]:
        if entered >= DOZEN and not all_presets and cls.name not in BASELINES:
            break
        policy = _placed(space, cls, preset)
        if policy is not None and policy.id not in {p.id for _, p in found}:
            found.append((preset.name, policy))
            entered += cls.name not in BASELINES
    return found


def _placed(space: Space, cls: type[Reducer], preset: Preset) -> Policy | None:
    policy = placed_preset(
        cls,
        preset,
        space.full,
        space.evaluated,
        space.workload,
        space.high,
        space.convention,
        positions=space.positions,
    )
    return policy if policy is not None and space.fits(policy) else None
