"""Published recipes give the published counts back at the published cost."""

from dataclasses import replace

import pytest

from autotc.anatomy import Anatomy, DecoderAnatomy, ImageRule, VisionAnatomy
from autotc.cost import estimate, preset_policy
from autotc.reducer import reducers
from autotc.workload import PROFILES

PUBLISHED = {
    ("fastv", "fastv"): [(2, 288)],
    ("pyramiddrop", "pyramiddrop"): [(8, 288), (16, 144), (24, 72)],
    ("dart", "dart"): [(2, 132)],
    ("withdraw", "vtw"): [(15, 0)],
    # with the recycled clusters, which the authors count apart: 300 + 9, 200 + 4, 110 + 3 and so on
    ("sparsevlm", "sparsevlm"): [(3, 309), (7, 204), (16, 113)],
    ("sparsevlm", "sparsevlm-128"): [(3, 312), (7, 117), (16, 39)],
    ("sparsevlm", "sparsevlm-64"): [(3, 82), (7, 32), (16, 18)],
    ("sparsevlm_plus", "sparsevlm_plus"): [(3, 300), (7, 200), (16, 118)],
    ("tokencarve", "tokencarve"): [(2, 192)],
    ("adaptprune", "adaptprune"): [(2, 57)],
}
VISION = VisionAnatomy(24, 23, 1024, 16, 4096, 2, 1, 0, (), 588, ((1024, 4096), (4096, 4096)))
LLAVA = Anatomy(
    "llava",
    "llava-1.5-7b",
    ImageRule(14, fixed=336),
    VISION,
    DecoderAnatomy(32, 4096, 32, 32, 128, 11008, 32064),
    7_063_427_072,
)


@pytest.mark.parametrize(("name", "preset"), PUBLISHED, ids=lambda value: str(value))
@pytest.mark.parametrize("convention", ["literature", "exact"])
def test_published_counts_come_back(name: str, preset: str, convention: str) -> None:
    cls = reducers.get(name)
    recipe = next(p for p in cls.presets if p.name == preset)
    workload, both = PROFILES["vqa"], ("original", "compact")
    published = preset_policy(cls, recipe, LLAVA, workload, 1e9, convention, both)
    assert published is not None
    # with all the room in the world keeps grow; the counts come back at their own cost
    stages = tuple(
        stage.model_copy(update={"keep": given.keep})
        for stage, given in zip(published.stages, recipe.stages(LLAVA), strict=True)
    )
    budget = estimate(published.model_copy(update={"stages": stages}), LLAVA, workload).get(convention)
    found = preset_policy(cls, recipe, LLAVA, workload, budget, convention, both)
    assert found is not None and found.positions == recipe.positions
    assert [(s.layer, s.tokens(576)) for s in found.stages] == PUBLISHED[name, preset]


def test_withdrawal_of_a_larger_model_is_deeper() -> None:
    recipe = reducers.get("withdraw").presets[0]
    deep = replace(LLAVA, decoder=replace(LLAVA.decoder, layers=40))
    assert [stage.layer for stage in recipe.stages(deep)] == [(20, 40)]
