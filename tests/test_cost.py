"""Costs against the published table, against formulas written out a second time, and their algebra."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotc.anatomy import Anatomy, DecoderAnatomy, ImageRule, VisionAnatomy
from autotc.cost import (
    estimate,
    estimate_tokens,
    floor_cost,
    full_cost,
    layer_tflops,
    preset_policy,
    scale_policy,
    schedule,
    solve_keep,
)
from autotc.errors import PolicyError, SpecError, UnsupportedError
from autotc.policy import ModelRef, Policy, Stage
from autotc.workload import H100, PROFILES, Hardware, Request, Workload

LLAVA = Anatomy(
    family="llava",
    id="llava-1.5-7b",
    image=ImageRule(patch=14, fixed=336),
    vision=VisionAnatomy(24, 23, 1024, 16, 4096, 2, 1, 0, (), 588, ((1024, 4096), (4096, 4096))),
    decoder=DecoderAnatomy(32, 4096, 32, 32, 128, 11008, 32064),
    parameters=7_063_427_072,
)
QWEN = Anatomy(
    family="qwen2_5_vl",
    id="qwen2.5-vl",
    image=ImageRule(patch=14, merge=2, min_pixels=3136, max_pixels=12_845_056),
    vision=VisionAnatomy(
        32, 32, 1280, 16, 3420, 3, 0, 64, (7, 15, 23, 31), 1176, ((5120, 5120), (5120, 3584))
    ),
    decoder=DecoderAnatomy(28, 3584, 28, 4, 128, 18944, 152064),
    parameters=8_292_166_656,
)
VQA = PROFILES["vqa"]
MIX = Workload(
    (
        Request(weight=3.0),
        Request(images=2, width=448, height=896, prompt_tokens=20, new_tokens=5, weight=1.0),
    ),
    batch=4,
    name="mix",
)


def policy(anatomy: Anatomy, *stages: tuple[str, int | None, float], reducer: str = "random") -> Policy:
    """A policy of (site, layer, keep) stages."""
    model = ModelRef(
        family=anatomy.family, decoder_layers=anatomy.decoder.layers, vision_blocks=anatomy.vision.blocks
    )
    made = tuple(Stage(site=s, layer=j, reducer=reducer, keep=k) for s, j, k in stages)  # type: ignore[arg-type]
    return Policy(model=model, stages=made)


def papers_flops(anatomy: Anatomy, tokens: Sequence[int]) -> float:
    """The papers' formula, term by term, over the tokens of each layer; TFLOP per 1,000 requests."""
    d, total = anatomy.decoder, 0.0
    q, kv = d.heads * d.head_dim, d.kv_heads * d.head_dim
    for n in tokens:
        total += n * d.width * q + 2 * n * d.width * kv + n * q * d.width  # q, k and v, o
        total += n * n * q + n * n * q  # scores, weighted values
        total += 3 * n * d.width * d.mlp
    return total * 1000 / 1e12


@pytest.mark.parametrize(("tokens", "table"), [(576, 3817.2), (192, 1253.1), (128, 833.2), (64, 415.5)])
def test_the_published_table_of_llava(tokens: int, table: float) -> None:
    found = estimate_tokens(LLAVA, VQA, tokens).tflops_literature
    assert round(found, 1) == table, f"{tokens} tokens: {found} instead of {table}"


def test_true_widths_of_grouped_queries() -> None:
    found = full_cost(QWEN, VQA).tflops_literature
    assert found == pytest.approx(papers_flops(QWEN, [576] * 28), rel=1e-12)
    assert round(found, 1) == 3825.2, found  # by hand: 28 (576 3584 8192 + 2 576^2 3584 + 3 576 3584 18944)


def test_stages_are_counted_layer_by_layer() -> None:
    staged = policy(QWEN, ("projector", None, 0.45), ("decoder", 8, 0.2), ("decoder", 20, 0.0))
    tokens = [259] * 8 + [115] * 12 + [0] * 8  # floor(0.45 576 + 0.5), floor(0.2 576 + 0.5)
    found = estimate(staged, QWEN, VQA)
    assert found.tflops_literature == pytest.approx(papers_flops(QWEN, tokens), rel=1e-12)
    assert found.visual_tokens == pytest.approx(sum(tokens) / 28)
    assert (found.entering_tokens, found.final_tokens) == (259, 0)
    assert schedule(staged, QWEN, (24, 24)).decoder == tuple(tokens)


def test_the_papers_count_does_not_see_the_tower() -> None:
    early, late = policy(QWEN, ("vision", 8, 0.25)), policy(QWEN, ("projector", None, 0.25))
    a, b = estimate(early, QWEN, VQA), estimate(late, QWEN, VQA)
    assert a.tflops_literature == b.tflops_literature
    assert a.parts["tower"] < 0.5 * b.parts["tower"], (a.parts, b.parts)
    assert a.parts["projector"] == pytest.approx(0.25 * b.parts["projector"])
    assert a.parts["prefill"] == b.parts["prefill"]


def test_exact_parts_written_out_for_one_request() -> None:
    request = Request(width=448, height=672, prompt_tokens=30, new_tokens=4)  # 16 x 24 tokens
    parts = full_cost(QWEN, Workload((request,))).parts
    n, patches = 24 * 16, 24 * 16 * 4
    w, m = 1280, 3420
    full, windowed = patches**2, sum((4 * h * c) ** 2 for h in [4] * 6 for c in [4] * 4)
    attention = 4 * w * (4 * full + 28 * windowed)
    tower = 2 * patches * 1176 * w + 32 * (8 * patches * w * w + 6 * patches * w * m) + attention
    assert parts["tower"] == pytest.approx(tower / 1e9, rel=1e-12)
    assert parts["projector"] == pytest.approx(2 * n * (5120**2 + 5120 * 3584) / 1e9, rel=1e-12)
    rows = n + 30
    linear = 2 * 3584 * (2 * 3584 + 2 * 512) + 6 * 3584 * 18944
    assert parts["prefill"] == pytest.approx(28 * (rows * linear + 4 * rows**2 * 3584) / 1e9, rel=1e-12)
    decode = sum(28 * (linear + 4 * (rows + t) * 3584) for t in (1, 2, 3))
    assert parts["decode"] == pytest.approx(decode / 1e9, rel=1e-12)
    assert parts["lm_head"] == pytest.approx(4 * 2 * 3584 * 152064 / 1e9, rel=1e-12)
    assert parts["reducers"] == 0.0


def test_border_windows_are_smaller() -> None:
    """5 x 6 tokens: windows of 4 + 1 rows and 4 + 2 columns of tokens."""
    request = Request(width=6 * 28, height=5 * 28)
    one = replace(QWEN, vision=replace(QWEN.vision, full_blocks=(), blocks=1, blocks_used=1))
    wide = replace(one, vision=replace(one.vision, window_patches=0))
    windowed, full = (full_cost(a, Workload((request,))).parts["tower"] for a in (one, wide))
    pairs = sum((4 * h * c) ** 2 for h in (4, 1) for c in (4, 2))
    assert (full - windowed) * 1e9 == pytest.approx(4 * 1280 * ((4 * 30) ** 2 - pairs), rel=1e-9)


def test_a_vision_stage_takes_whole_groups_on_qwen_and_keeps_the_cls_row_on_clip() -> None:
    for anatomy, unit, prefix in ((QWEN, 4, 0), (LLAVA, 1, 1)):
        plan = schedule(policy(anatomy, ("vision", 3, 0.5)), anatomy, (24, 24))
        blocks = anatomy.vision.blocks
        assert plan.attention == (576,) * 3 + (288,) * (blocks - 3)
        assert plan.mlp == plan.attention
        assert plan.projector == 288 and set(plan.decoder) == {288}
        narrow = replace(anatomy, vision=replace(anatomy.vision, window_patches=0, full_blocks=()))
        cut = estimate(policy(anatomy, ("vision", 3, 0.5)), narrow, VQA).parts["tower"]
        v = anatomy.vision
        expected = 2.0 * 576 * unit * v.patch_inputs * v.width
        for n in plan.attention:
            r = n * unit + prefix
            expected += 8 * r * v.width**2 + 4 * r**2 * v.width + 2 * v.mlp_matrices * r * v.width * v.mlp
        assert cut == pytest.approx(expected / 1e9, rel=1e-12)


def test_a_cut_after_the_attention_leaves_that_attention_whole() -> None:
    plan = schedule(policy(LLAVA, ("vision", 3, 0.5), reducer="tome"), LLAVA, (24, 24))
    assert plan.attention[:5] == (576, 576, 576, 576, 288)
    assert plan.mlp[:5] == (576, 576, 576, 288, 288)


def test_an_input_stage_shrinks_the_tower_and_keeps_count_from_the_original() -> None:
    plan = schedule(policy(QWEN, ("input", None, 0.25), ("decoder", 2, 0.2)), QWEN, (24, 24))
    assert plan.grid == (12, 12) and set(plan.attention) == {144} and plan.projector == 144
    assert plan.decoder[:3] == (144, 144, 115)  # 0.2 of 576, not of 144
    wide = schedule(policy(QWEN, ("input", None, 0.3)), QWEN, (12, 40))
    rows, columns = wide.grid
    assert rows * columns == wide.decoder[0] <= 144
    assert rows * columns > 120 and 0.25 < rows / columns < 0.36, wide.grid
    never = schedule(policy(QWEN, ("input", None, 0.25), ("projector", None, 0.25)), QWEN, (23, 23))
    assert never.projector == never.grid[0] * never.grid[1]
    assert set(never.decoder) == {min(never.projector, 132)}


@given(
    rows=st.integers(1, 40), columns=st.integers(1, 40), tokens=st.integers(1, 1600), more=st.integers(0, 200)
)
def test_a_grid_within_a_budget(rows: int, columns: int, tokens: int, more: int) -> None:
    rule = QWEN.image
    r, c = rule.within((rows, columns), tokens)
    assert 1 <= r <= rows and 1 <= c <= columns
    assert r * c <= max(tokens, 1)
    bigger = rule.within((rows, columns), tokens + more)
    assert bigger[0] * bigger[1] >= r * c
    # true aspect: one side is the nearest whole number for the other one
    exact = abs(r - c * rows / columns) <= 0.5 or abs(c - r * columns / rows) <= 0.5
    assert exact or 1 in (r, c)


def test_budgets_are_per_image() -> None:
    staged = policy(QWEN, ("projector", None, 0.1001))
    one, four = (
        Workload((Request(width=308, height=308),)),
        Workload((Request(images=4, width=308, height=308),)),
    )
    kept = [estimate(staged, QWEN, w).entering_tokens for w in (one, four)]
    assert kept == [12, 48]  # 12.1 of 121, rounded in each image
    lone, many = estimate(staged, QWEN, one), estimate(staged, QWEN, four)
    assert many.parts["tower"] == pytest.approx(4 * lone.parts["tower"], rel=1e-12)
    assert many.tflops_literature == pytest.approx(papers_flops(QWEN, [48] * 28), rel=1e-12)
    assert many.parts["prefill"] < 4 * lone.parts["prefill"]


def test_questions_share_the_images() -> None:
    once = full_cost(QWEN, Workload((Request(prompt_tokens=50, new_tokens=3),)))
    thrice = full_cost(QWEN, Workload((Request(prompt_tokens=50, new_tokens=3, questions=3),)))
    assert thrice.parts["tower"] == once.parts["tower"]
    linear = 2 * 3584 * 8192 + 6 * 3584 * 18944
    again = 28 * (50 * linear + 4 * 50 * 626 * 3584) / 1e9
    assert thrice.parts["prefill"] - once.parts["prefill"] == pytest.approx(2 * again, rel=1e-9)
    assert thrice.parts["decode"] == pytest.approx(3 * once.parts["decode"])
    assert thrice.parts["lm_head"] == pytest.approx(3 * once.parts["lm_head"])


def test_a_mix_is_the_weighted_mean_and_memory_the_largest_shape() -> None:
    staged = policy(QWEN, ("projector", None, 0.3), ("decoder", 9, 0.1))
    whole = estimate(staged, QWEN, MIX)
    a, b = (estimate(staged, QWEN, Workload((r,), batch=4)) for r in MIX.requests)
    for name in ("tflops_literature", "tflops_exact", "kv_bytes", "visual_tokens", "latency_ms"):
        mean = 0.75 * getattr(a, name) + 0.25 * getattr(b, name)
        assert getattr(whole, name) == pytest.approx(mean, rel=1e-12), name
    assert whole.memory_gib == max(a.memory_gib, b.memory_gib)
    assert a.memory_gib != b.memory_gib


def test_cache_bytes_use_the_real_counts_of_each_layer() -> None:
    staged = policy(QWEN, ("projector", None, 0.5), ("decoder", 10, 0.25), ("decoder", 20, 0.0))
    request = Request(images=2, prompt_tokens=40, new_tokens=6)
    found = estimate(staged, QWEN, Workload((request,)))
    row = 2 * 4 * 128 * 2  # keys and values, 4 heads of 128, two bytes
    rows = [2 * 288 + 45] * 10 + [2 * 144 + 45] * 10 + [45] * 8
    assert found.kv_bytes_by_layer == tuple(float(row * n) for n in rows)
    assert found.kv_bytes == row * sum(rows)


def test_memory_holds_weights_cache_and_activations() -> None:
    request = Request(prompt_tokens=40, new_tokens=1)
    single, batched = (full_cost(QWEN, Workload((request,), batch=b)) for b in (1, 8))
    weights = 2 * QWEN.parameters / 2**30
    prefill = 616 * (2 * 3584 + 3 * 18944) * 2 / 2**30  # wider than the tower's 2304 (2 1280 + 3 3420)
    cache = single.kv_bytes / 2**30
    assert single.memory_gib == pytest.approx(weights + cache + prefill, rel=1e-12)
    assert batched.memory_gib - weights == pytest.approx(8 * (single.memory_gib - weights), rel=1e-9)
    cut = estimate(policy(QWEN, ("projector", None, 0.1)), QWEN, Workload((request,)))
    assert cut.memory_gib < single.memory_gib


def test_latency_is_the_roofline_of_each_part() -> None:
    found = full_cost(QWEN, VQA)
    decoder = 28 * 3584 * (8192 + 3 * 18944) * 2  # bytes of weights
    slow = 15 * (decoder + found.kv_bytes) / H100.bytes_per_s * 1e3
    assert found.latency_parts_ms["decode"] == pytest.approx(slow, rel=1e-12)  # bandwidth
    assert found.latency_parts_ms["prefill"] == pytest.approx(
        found.parts["prefill"] * 1e9 / 989e12 * 1e3
    )  # compute
    assert found.latency_ms == pytest.approx(sum(found.latency_parts_ms.values()))
    faster = Hardware("twice", 2 * H100.flops_per_s, 2 * H100.bytes_per_s, 80e9)
    assert full_cost(QWEN, VQA, faster).latency_ms == pytest.approx(found.latency_ms / 2)


def test_reducers_are_charged_and_really_kept_counts_too() -> None:
    from autotc.reducer import Shape, make_reducer

    staged = policy(QWEN, ("projector", None, 0.25), reducer="divprune")
    work = make_reducer("divprune").flops(Shape(n=576, k=144, d=3584, heads=16, head_dim=80, text=96))
    many = PROFILES["multi-image"]
    assert work > 0
    assert estimate(staged, QWEN, many).parts["reducers"] == pytest.approx(4 * work / 1e9, rel=1e-12)
    real = estimate(staged, QWEN, VQA, kept=(0.1,))
    assert real.entering_tokens == 58 and estimate(staged, QWEN, VQA, kept=(0.9,)).entering_tokens == 144
    assert real.tflops_literature == estimate_tokens(QWEN, VQA, 58).tflops_literature
    with pytest.raises(PolicyError, match="kept: 2 numbers for 1 stages"):
        estimate(staged, QWEN, VQA, kept=(0.1, 0.1))


def test_an_attention_map_made_only_for_a_reducer_is_charged() -> None:
    """FasterVLM reads the CLS row on CLIP; Qwen's tower has none, so the last block's map is made again."""
    on_clip, on_qwen = (
        estimate(policy(a, ("projector", None, 0.25), reducer="fastervlm"), a, VQA).parts["reducers"]
        for a in (LLAVA, QWEN)
    )
    assert on_qwen > 2 * 2304**2 * 1280 / 1e9 > 100 * on_clip, (on_qwen, on_clip)


@pytest.mark.parametrize("anatomy", [QWEN, LLAVA], ids=lambda a: a.family)
def test_keeping_everything_costs_what_the_model_costs(anatomy: Anatomy) -> None:
    everything = policy(
        anatomy, ("input", None, 1.0), ("vision", 2, 1.0), ("projector", None, 1.0), ("decoder", 3, 1.0)
    )
    assert estimate(everything, anatomy, MIX) == full_cost(anatomy, MIX)
    assert estimate_tokens(anatomy, VQA, 576) == full_cost(anatomy, VQA)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"model\.family: the policy is for 'llava'"):
        estimate(policy(LLAVA, ("projector", None, 0.5)), QWEN, VQA)
    shallow = replace(QWEN, decoder=replace(QWEN.decoder, layers=14))
    with pytest.raises(PolicyError, match=r"model.decoder_layers: .* 14, .* 28; .*for_model"):
        estimate(policy(shallow, ("decoder", 3, 0.5)), QWEN, VQA)
    with pytest.raises(PolicyError, match=r"stages\[1\].layer: 28 is beyond this model; .* 1..27"):
        estimate(policy(QWEN, ("decoder", 3, 0.5), ("decoder", 28, 0.5)), QWEN, VQA)
    with pytest.raises(
        PolicyError, match=r"stages\[0\].layer: 23 .* 'vision': 1..22"
    ):  # block 23 feeds nothing
        estimate(policy(LLAVA, ("vision", 23, 0.5)), LLAVA, VQA)
    with pytest.raises(UnsupportedError, match="frames"):
        full_cost(QWEN, Workload((Request(frames=8),)))
    for tokens in (0, 577):
        with pytest.raises(SpecError, match=rf"--visual-tokens: {tokens} .* 1..576"):
            estimate_tokens(QWEN, VQA, tokens)
    with pytest.raises(SpecError, match="'papers' is not one of literature, exact"):
        full_cost(QWEN, VQA).get("papers")


def test_numbers_are_plain_data() -> None:
    found = full_cost(QWEN, VQA)
    assert json.loads(json.dumps(found.as_dict()))["parts"] == found.parts
    assert (found.get("literature"), found.get("exact")) == (found.tflops_literature, found.tflops_exact)
    assert found.tflops_exact == pytest.approx(sum(found.parts.values()))


def test_the_cost_of_a_model_needs_no_torch() -> None:
    code = (
        "import sys; from autotc.cost import full_cost; from autotc.workload import PROFILES\n"
        "from autotc.anatomy import *\n"
        "v = VisionAnatomy(4, 4, 64, 2, 128, 2, 1, 0, (), 588, ((64, 64),))\n"
        "d = DecoderAnatomy(4, 64, 2, 2, 32, 128, 99)\n"
        "a = Anatomy('llava', 'x', ImageRule(14, fixed=336), v, d, 1000)\n"
        "assert full_cost(a, PROFILES['vqa']).tflops_exact > 0\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_estimate_takes_less_than_a_millisecond() -> None:
    staged = policy(
        QWEN, ("vision", 8, 0.6), ("projector", None, 0.45), ("decoder", 8, 0.2), ("decoder", 20, 0.0)
    )
    taken = []
    for _ in range(30):
        start = time.perf_counter()
        estimate(staged, QWEN, VQA)
        taken.append(1e3 * (time.perf_counter() - start))
    assert min(taken) < 1, f"{min(taken):.3f} ms"


# budgets --------------------------------------------------------------------------------------------------


@st.composite
def staged_policies(draw: st.DrawFn) -> Policy:
    """Valid policies of one to four stages at any sites of Qwen2.5-VL."""
    places: list[tuple[str, int | None]] = []
    if draw(st.booleans()):
        places.append(("vision", draw(st.integers(1, 31))))
    if draw(st.booleans()) or not places:
        places.append(("projector", None))
    layers = sorted(draw(st.sets(st.integers(1, 27), max_size=2)))
    places += [("decoder", layer) for layer in layers]
    keeps = sorted(
        draw(st.lists(st.floats(0.002, 1), min_size=len(places), max_size=len(places))), reverse=True
    )
    keeps = [round(k, 6) for k in keeps]
    if layers and draw(st.booleans()):
        keeps[-1] = 0.0
    return policy(QWEN, *((s, j, k) for (s, j), k in zip(places, keeps, strict=True)))


@settings(max_examples=60, deadline=None)
@given(staged_policies(), st.sampled_from(["literature", "exact"]), st.data())
def test_a_solved_keep_meets_the_limit_and_one_token_more_does_not(made, convention, data) -> None:  # type: ignore[no-untyped-def]
    index = data.draw(st.sampled_from([i for i, s in enumerate(made.stages) if s.keep > 0]))
    limit = data.draw(st.floats(0.05, 1.1)) * full_cost(QWEN, VQA).get(convention)

    def cost(keep: float) -> float:
        stages = list(made.stages)
        stages[index] = stages[index].model_copy(update={"keep": keep})
        return estimate(made.model_copy(update={"stages": tuple(stages)}), QWEN, VQA).get(convention)

    keep = solve_keep(made, index, QWEN, VQA, limit, convention)
    low = made.stages[index + 1].keep if index + 1 < len(made.stages) else 0.0
    high = made.stages[index - 1].keep if index else 1.0
    if keep is None:
        assert cost(max(low, 1e-6)) > limit
        return
    assert max(low, 1e-6) <= keep <= high
    assert cost(keep) <= limit
    more = (made.stages[index].model_copy(update={"keep": keep}).tokens(576) + 1) / 576
    assert more > high or cost(more) > limit, (keep, more, cost(keep), cost(more), limit)


def test_a_solved_keep_of_a_mix_and_of_a_withdrawal() -> None:
    staged = policy(QWEN, ("projector", None, 0.5), ("decoder", 14, 0.0))
    limit = 0.2 * full_cost(QWEN, MIX).tflops_literature
    keep = solve_keep(staged, 0, QWEN, MIX, limit)
    assert keep is not None

    def cost(k: float) -> float:
        return estimate(
            policy(QWEN, ("projector", None, k), ("decoder", 14, 0.0)), QWEN, MIX
        ).tflops_literature

    assert cost(keep) <= limit < cost(keep + 1 / 512)
    with pytest.raises(ValueError, match=r"stages\[1\] takes every token away"):
        solve_keep(staged, 1, QWEN, MIX, limit)


@settings(max_examples=40, deadline=None)
@given(staged_policies(), st.sampled_from(["literature", "exact"]), st.floats(0.05, 1.2))
def test_one_factor_meets_the_budget(made, convention, share) -> None:  # type: ignore[no-untyped-def]
    limit = share * full_cost(QWEN, VQA).get(convention)
    found = scale_policy(made, QWEN, VQA, limit, convention)
    if found is None:
        tiny = [s.model_copy(update={"keep": 1e-6 if s.keep else 0.0}) for s in made.stages]
        assert estimate(made.model_copy(update={"stages": tuple(tiny)}), QWEN, VQA).get(convention) > limit
        return
    assert estimate(found, QWEN, VQA).get(convention) <= limit
    Policy.model_validate(found.model_dump(by_alias=True))
    factors = [
        f.keep / m.keep for f, m in zip(found.stages, made.stages, strict=True) if m.keep and f.keep < 1
    ]
    # one token more in every stage is over the limit, so the factor is the largest one; 0.99999 keeps all tokens
    if factors and any(stage.tokens(576) < 576 for stage in found.stages):
        assert max(factors) == pytest.approx(
            min(factors), abs=1e-3 / min(m.keep for m in made.stages if m.keep)
        )
        more = [
            s.model_copy(update={"keep": min(1.0, (s.tokens(576) + 1) / 576) if s.keep else 0.0})
            for s in found.stages
        ]
        assert estimate(made.model_copy(update={"stages": tuple(more)}), QWEN, VQA).get(convention) > limit


def _preset(*stages: tuple, positions: str = "original"):  # type: ignore[type-arg, no-untyped-def]
    from autotc.reducer import Preset, PresetStage

    return Preset("published", lambda anatomy: tuple(PresetStage(*s) for s in stages), positions)  # type: ignore[arg-type]


PYRAMID = (("decoder", 0.5, (8, 32)), ("decoder", 0.25, (16, 32)), ("decoder", 0.125, (24, 32)))


@pytest.mark.parametrize("convention", ["literature", "exact"])
def test_a_preset_gives_the_published_counts_back(convention) -> None:  # type: ignore[no-untyped-def]
    from autotc.reducer import reducers

    published = policy(LLAVA, ("decoder", 8, 0.5), ("decoder", 16, 0.25), ("decoder", 24, 0.125))
    budget = estimate(published, LLAVA, VQA).get(convention)
    found = preset_policy(
        reducers.get("random"), _preset(*PYRAMID), LLAVA, VQA, budget, convention, ("original",)
    )
    assert found is not None
    assert [(s.layer, s.tokens(576)) for s in found.stages] == [(8, 288), (16, 144), (24, 72)]
    assert [s.keep for s in found.stages] == [0.5, 0.25, 0.125]
    less = preset_policy(
        reducers.get("random"), _preset(*PYRAMID), LLAVA, VQA, 0.9 * budget, convention, ("original",)
    )
    assert less is not None
    counts = [s.tokens(576) for s in less.stages]
    assert all(a < b for a, b in zip(counts, (288, 144, 72), strict=True)), counts
    cost = estimate(less, LLAVA, VQA).get(convention)
    token = layer_tflops(LLAVA, VQA, 289, convention) - layer_tflops(LLAVA, VQA, 288, convention)
    assert 0 <= 0.9 * budget - cost < 14 * token, (
        cost,
        budget,
        token,
    )  # 8 + 4 + 2 layers can gain a token at once


def test_a_preset_is_placed_by_depth_or_not_at_all() -> None:
    from autotc.reducer import reducers

    cls, both = reducers.get("random"), ("original", "compact")
    found = preset_policy(cls, _preset(*PYRAMID, positions="compact"), QWEN, VQA, 3000, positions=both)
    assert (
        found is not None and [s.layer for s in found.stages] == [7, 14, 21] and found.positions == "compact"
    )
    assert found.model.decoder_layers == 28 and found.model.vision_blocks == 32
    plain = preset_policy(
        cls, _preset(*PYRAMID, positions="compact"), QWEN, VQA, 3000, positions=("original",)
    )
    assert plain is not None and plain.positions == "original"
    # an eighth of 28 layers sees everything whatever follows: no factor reaches 10 %
    assert preset_policy(cls, _preset(*PYRAMID), QWEN, VQA, 380, positions=both) is None
    assert (
        preset_policy(cls, _preset(*PYRAMID), QWEN, VQA, 9000, positions=both).describe().count("100.0%") == 3
    )  # type: ignore[union-attr]
    shallow = replace(QWEN, decoder=replace(QWEN.decoder, layers=3))
    close = _preset(("decoder", 0.5, (2, 32)), ("decoder", 0.25, (4, 32)))
    assert preset_policy(cls, close, shallow, VQA, 300, positions=both) is None  # both would fall on layer 1
    late = _preset(("vision", 0.5, (23, 24)))
    assert preset_policy(cls, late, LLAVA, VQA, 2000, positions=both) is None  # block 23 feeds nothing
    away = _preset(("decoder", 0.0, (16, 32)))
    half = preset_policy(cls, away, LLAVA, VQA, 2000, positions=both)
    assert half is not None and half.stages[0].keep == 0 and estimate(half, LLAVA, VQA).final_tokens == 0
    assert preset_policy(cls, away, LLAVA, VQA, 1900, positions=both) is None


def test_floors_name_what_sets_them() -> None:
    lone = 28 * (3584 * 8192 + 2 * 3584 + 3 * 3584 * 18944) / 1e9  # one token through all layers
    projector = floor_cost(QWEN, VQA, "literature", ("projector",))
    assert projector.tflops == pytest.approx(lone, rel=1e-12)
    every = floor_cost(QWEN, VQA, "literature")
    assert every.tflops == pytest.approx(lone / 28, rel=1e-12)
    decoder = floor_cost(QWEN, VQA, "literature", ("decoder",))
    assert decoder.tflops == pytest.approx(layer_tflops(QWEN, VQA, 576, "literature"), rel=1e-12)
    assert "decoder layer 0" in decoder.reason
    kept = floor_cost(QWEN, VQA, "literature", ("decoder",), withdraw=False)
    assert kept.tflops == pytest.approx(decoder.tflops + 27 * lone / 28, rel=1e-12)
    exact = [floor_cost(QWEN, VQA, "exact", (s,)) for s in ("input", "vision", "projector", "decoder")]
    assert [f.tflops for f in exact] == sorted(f.tflops for f in exact)
    assert "tower sees every visual token" in exact[2].reason
    assert floor_cost(QWEN, VQA, "exact", ()).tflops == full_cost(QWEN, VQA).tflops_exact


@settings(max_examples=40, deadline=None)
@given(staged_policies(), st.data())
def test_keeping_more_never_costs_less(made, data) -> None:  # type: ignore[no-untyped-def]
    index = data.draw(st.integers(0, len(made.stages) - 1))
    stages = list(made.stages)
    high = stages[index - 1].keep if index else 1.0
    stages[index] = stages[index].model_copy(update={"keep": high})
    before, after = (
        estimate(p, QWEN, MIX) for p in (made, made.model_copy(update={"stages": tuple(stages)}))
    )
    for name in ("tflops_literature", "tflops_exact", "memory_gib", "kv_bytes", "latency_ms"):
        assert getattr(before, name) <= getattr(after, name), (name, made.describe(), high)
