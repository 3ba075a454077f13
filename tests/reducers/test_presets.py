"""Published recipes give the published counts back at the published cost."""

from dataclasses import replace

import pytest

from autotc.anatomy import Anatomy, DecoderAnatomy, ImageRule, VisionAnatomy
from autotc.cost import estimate, estimate_tokens, preset_policy
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
    ("v2drop", "v2drop"): [(3, 288), (17, 144), (22, 1)],
    ("feather", "feather"): [(8, 218), (16, 20)],
    ("transprune", "transprune"): [(7, 504), (9, 360), (12, 72)],
    ("adaptinfer", "adaptinfer"): [(2, 290), (11, 72), (21, 18)],
    ("adaptinfer", "adaptinfer-64"): [(2, 133), (11, 27), (21, 3)],
    ("adaptinfer", "adaptinfer-48"): [(2, 80), (11, 24), (21, 2)],
    ("adaptinfer", "adaptinfer-32"): [(2, 40), (11, 12), (21, 0)],
    ("pact", "pact"): [(4, 165)],
    ("aim_prune", "aim-whole"): [
        (None, 72),
        *zip(range(14, 22), (63, 54, 45, 36, 27, 18, 9, 0), strict=True),
    ],
    ("fitprune", "fitprune"): [
        *zip(range(1, 9), (562, 529, 440, 404, 368, 348, 293, 272), strict=True),
        *zip(range(9, 17), (254, 250, 243, 238, 236, 231, 224, 220), strict=True),
        *zip(range(17, 25), (194, 189, 178, 154, 150, 132, 130, 129), strict=True),
        (27, 128),
        (29, 127),
    ],
    ("topv", "topv"): [(2, 288)],
    ("greedyprune", "greedyprune"): [(2, 288)],
    ("divprune", "divprune"): [(None, 56)],
    ("fastervlm", "fastervlm"): [(None, 58)],
    ("visionzip", "visionzip"): [(None, 64)],
    ("vispruner", "vispruner"): [(None, 64)],
    ("scope", "scope"): [(None, 64)],
    ("cdpruner", "cdpruner"): [(None, 64)],
    ("mmtok", "mmtok"): [(None, 64)],
    ("trim", "trim"): [(None, 121)],
    ("gprune", "gprune"): [(None, 288)],
    ("holov", "holov"): [(None, 64)],
    ("folder", "folder"): [(None, 196)],
    ("tome", "tome-quarters"): [(6, 448), (12, 320), (18, 192)],
    ("evit", "evit"): [(6, 405), (12, 285), (18, 201)],
    ("illava", "illava-once"): [(6, 285)],
    ("atc", "atc"): [(6, 399), (12, 276), (18, 192)],
    ("turbo", "turbo-last"): [(20, 541), (22, 192)],
    ("ats", "ats"): [(6, 448), (12, 320), (18, 192)],
    ("hiprune", "hiprune"): [(None, 192)],
    ("vscan", "vscan"): [(None, 192)],
    ("hired", "hired"): [(None, 115)],
    ("globalcom2", "globalcom2"): [(None, 144)],
    ("todre", "todre"): [(None, 144), (28, 0)],
    ("todre", "todre-10"): [(None, 58), (28, 0)],
    ("mob", "mob"): [(None, 192)],
    ("mob", "mob-64"): [(None, 64)],
    ("flowcut", "flowcut"): list(
        zip(range(2, 23, 2), (560, 544, 527, 510, 493, 475, 456, 436, 413, 383, 192), strict=True)
    ),
    ("flowcut", "flowcut-64"): list(
        zip(range(2, 23, 2), (554, 532, 510, 487, 464, 440, 415, 388, 357, 318, 64), strict=True)
    ),
    ("ficoco_v", "ficoco_v"): list(zip(range(12, 23), range(534, 113, -42), strict=True)),
    ("mustdrop", "mustdrop"): [(1, 288), (3, 286), (7, 229), (11, 183), (15, 146)],
    ("mustdrop", "mustdrop-64"): [(1, 288), (3, 64), (7, 51), (11, 41), (15, 33)],
    ("vflowopt", "vflowopt"): [(None, 153), (11, 150), (21, 132)],
    ("vflowopt", "vflowopt-10"): [(None, 67), (11, 67), (21, 40)],
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
    counts = [(s.layer, s.tokens(576)) for s in found.stages]
    if convention == "literature" and found.stages[0].site == "vision":
        # this convention doesn't see the tower: earlier counts are free within the rounding of the last one
        assert counts[-1] == PUBLISHED[name, preset][-1]
    else:
        assert counts == PUBLISHED[name, preset]


@pytest.mark.parametrize("name", ["hiprune", "vscan", "hired", "globalcom2"])
@pytest.mark.parametrize("tokens", [192, 128, 64])
def test_recipe_of_one_stage_gives_every_budget_of_the_tables(name: str, tokens: int) -> None:
    cls, workload = reducers.get(name), PROFILES["vqa"]
    (recipe,) = cls.presets
    budget = estimate_tokens(LLAVA, workload, tokens).tflops_literature
    found = preset_policy(cls, recipe, LLAVA, workload, budget, "literature", ("original", "compact"))
    assert found is not None and [s.tokens(576) for s in found.stages] == [tokens]


def test_withdrawal_of_a_larger_model_is_deeper() -> None:
    recipe = reducers.get("withdraw").presets[0]
    deep = replace(LLAVA, decoder=replace(LLAVA.decoder, layers=40))
    assert [stage.layer for stage in recipe.stages(deep)] == [(20, 40)]


@pytest.mark.parametrize("name", ["fastv", "dart", "tokencarve", "adaptprune", "topv", "greedyprune"])
@pytest.mark.parametrize("layers", [24, 28, 32, 36, 40])
def test_early_cuts_stand_before_the_same_layer_of_every_model(name: str, layers: int) -> None:
    model = replace(LLAVA, decoder=replace(LLAVA.decoder, layers=layers))
    cls = reducers.get(name)
    found = preset_policy(cls, cls.presets[0], model, PROFILES["vqa"], 1e9, positions=("original", "compact"))
    assert found is not None and [stage.layer for stage in found.stages] == [2]
