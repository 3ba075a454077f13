"""The evaluator scores what `generate` writes; batches and reuse change no figure; references are right."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import autotc
from autotc._batches import PrefixStore, cut, image_number, light, nbytes
from autotc._outcomes import COLUMNS, Outcomes
from autotc._references import known, state_of
from autotc._same import Same, same_pictures
from autotc._score import Segment, head, run_chunk
from autotc._signals import TOWER
from autotc._stages import Ledger
from autotc.adapter import adapter_for
from autotc.apply import Compression, capture, check, prefill
from autotc.errors import AutotcError, DataError, PolicyError
from autotc.evaluate import Evaluator, _named
from autotc.policy import Policy
from autotc.processing import load_model
from autotc.reducer import reducers
from autotc.reuse_bench import reuse_benchmark
from autotc.task import SPLITS, Example, Split, normalise
from autotc.tasks.jsonl import Jsonl
from tests.evaluate_fixtures import (
    Toy,
    internvl_folder,
    llava_folder,
    picture,
    policy,
    qwen3_folder,
    qwen_folder,
)

FAMILIES = {"qwen": qwen_folder, "qwen3": qwen3_folder, "llava": llava_folder, "internvl": internvl_folder}
LONGEST = 18  # tokens of an answer
SIZES = ((84, 84), (84, 70), (56, 98), (84, 42))
POLICIES: dict[str, tuple[tuple[Any, ...], ...]] = {
    "projector": (("projector", None, "divprune", 0.4),),
    "random": (("projector", None, "random", 0.3),),
    "merge": (("projector", None, "visionzip", 0.4),),
    "decoder": (("decoder", 2, "fastv", 0.3), ("decoder", 4, "withdraw", 0.0)),
    "both": (("projector", None, "random", 0.6), ("decoder", 3, "fastv", 0.2)),
    "vision": (("vision", 1, "random", 0.5), ("decoder", 2, "fastv", 0.3)),
    "tome": (("vision", 2, "tome", 0.5),),
    "received": (("vision", 2, "illava", 0.6), ("projector", None, "visionzip", 0.3)),
    "mild": (("vision", 1, "random", 0.95), ("projector", None, "random", 0.9), ("decoder", 4, "fastv", 0.6)),
    "input": (("input", None, "downsample", 0.4), ("decoder", 2, "fastv", 0.3)),
}


@cache
def model(family: str) -> Any:
    return load_model(FAMILIES[family]())


LOOKING = [  # into the tower, from behind it
    n
    for n in reducers.names()
    if "projector" in (c := reducers.get(n)).sites and {*c.needs, *c.instead.values()} & {*TOWER}
]


class Known(Toy):
    """A toy task whose answers are the model's own for every second example: so some are right."""

    def __init__(self, answers: dict[str, str], **options: Any) -> None:
        super().__init__(**options)
        self._given = answers

    def examples(self, split: Split, n: int | None = None) -> list[Example]:
        return [replace(e, answer=self._given.get(e.id, e.answer)) for e in super().examples(split, n)]


@cache
def task(family: str) -> Known:
    """Two of three answers are what the uncompressed model writes, where some text of it stands for itself."""
    built, processor = model(family)
    toy = Toy(SIZES, images=6, answers=False)
    plain = Evaluator(built, toy, processor=processor, new_tokens=LONGEST)
    plain.evaluate(None, "search", 12)
    examples = toy.examples("search", 12)
    wanted = {}
    for k, (e, own) in enumerate(zip(examples, plain._references.own("search", examples), strict=True)):
        text = _stable(processor, toy, e, own) if k % 3 else None
        if text is not None:
            wanted[e.id] = text
    return Known(wanted, sizes=SIZES, images=6)


def _stable(processor: Any, toy: Toy, example: Example, own: list[int]) -> str | None:
    """Return a beginning of the model's own answer that the model is right with when it is what the data asks for.

    Own answers are cut two tokens behind the length of the text in the data, which lacks the special tokens that the
    model writes between words: of most beginnings, what is left after the cut says something else.
    """

    def text(ids: list[int]) -> str:
        return str(processor.decode(ids, skip_special_tokens=True))

    for j in range(1, len(own) + 1):
        wanted = text(own[:j])
        limit = len(processor.answer_ids(wanted)) + 2
        asked = replace(example, answer=wanted)
        if normalise(wanted) and limit <= LONGEST and toy.score(asked, text(own[:limit])) == 1.0:
            return wanted
    return None


@cache
def evaluator(family: str, reuse: bool = True) -> Evaluator:
    built, processor = model(family)
    return Evaluator(built, task(family), processor=processor, batch=4, reuse=reuse)


def made(family: str, name: str) -> Policy:
    compact = name == "compact"  # LLaVA only: Qwen's positions have three axes
    return policy(
        FAMILIES[family](),
        *POLICIES["both" if compact else name],
        positions="compact" if compact else "original",
    )


def same(one: Outcomes, two: Outcomes) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)
    assert one.trace == two.trace


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", POLICIES)
def test_reuse_changes_no_figure(family: str, name: str) -> None:
    chosen = made(family, name)
    found = evaluator(family).evaluate(chosen, "search", 12)
    same(found, evaluator(family, False).evaluate(chosen, "search", 12))
    assert [t["site"] for t in found.trace] == [s.site for s in chosen.stages]
    assert all(t["kept"] <= t["asked"] + 1e-6 for t in found.trace)


@pytest.mark.parametrize("name", LOOKING)
@pytest.mark.parametrize("family", ["llava", "qwen"])
def test_what_looks_into_the_tower_sees_it_behind_a_cut_inside(family: str, name: str) -> None:
    """The tower starts from recorded states, at the first block that anything behind it looks at."""
    cut = evaluator(family).anatomy.vision.blocks_used - 1
    chosen = policy(FAMILIES[family](), ("vision", cut, "uniform", 0.5), ("projector", None, name, 0.25))
    try:
        check(chosen, evaluator(family).anatomy)
    except AutotcError as error:
        pytest.skip(str(error))
    found = evaluator(family).evaluate(chosen, "search", 4)
    same(found, evaluator(family, False).evaluate(chosen, "search", 4))


def test_equal_pictures_pass_the_tower_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every reducer that cuts there, and with what stands behind; figures and traces stay those of all images."""
    for family in ("qwen", "qwen3", "llava"):
        built, processor = model(family)
        shown: list[int] = []
        adapter = adapter_for(built)
        handle = adapter.tower.register_forward_pre_hook(
            lambda m, args, kw, a=adapter, s=shown: s.append(len(a.tower_grids(args, kw))), with_kwargs=True
        )
        once = Evaluator(built, task(family), processor=processor, batch=4)
        each = Evaluator(built, task(family), processor=processor, batch=4)
        cutting = [n for n in reducers.names() if "vision" in reducers.get(n).sites]
        inside = [(("vision", 1, n, 0.6), ("decoder", 2, "fastv", 0.3)) for n in cutting]
        ran = 0
        # the tower runs once more for what a prefill of resized images was not captured with
        again = [(("input", None, "downsample", 0.4), ("projector", None, n, 0.2)) for n in LOOKING]
        for stages in [*POLICIES.values(), *inside, *again]:
            chosen = policy(FAMILIES[family](), *stages)
            try:
                check(chosen, once.anatomy)
            except AutotcError:
                continue
            shown.clear()
            found = once.evaluate(chosen, "search", 12)
            halved = list(shown)
            with monkeypatch.context() as patch:
                patch.setattr("autotc.evaluate.same_pictures", lambda *_: None)
                shown.clear()
                plain = each.evaluate(chosen, "search", 12)
            np.testing.assert_allclose(found.kl, plain.kl, atol=1e-5)  # fewer rows a product: other rounding
            same(found, replace(plain, kl=found.kl))
            assert [2 * n for n in halved] == shown
            ran += bool(shown)
        handle.remove()
        assert ran > len(cutting) // 2


@pytest.mark.parametrize("family", ["qwen", "llava"])
def test_pictures_are_the_same_only_where_every_pixel_is(family: str) -> None:
    """A key may stand for a set of images, of which examples show different ones."""
    built, processor = model(family)
    a, b = picture(1, 84, 84), picture(2, 84, 84)
    shown = [[a, b], [b], [a], [a]]
    inputs = processor.inputs(shown, ["which ?"] * 4)
    keys = ["album", "album", "album", "album", "another"]
    found = same_pictures(adapter_for(built), inputs, keys)
    assert found == Same(first=[0, 1, 4], order=[0, 1, 1, 0, 2])
    assert same_pictures(adapter_for(built), inputs, list("abcde")) is None
    prefix = capture(built, inputs, same=found)
    plain = capture(built, inputs)
    torch.testing.assert_close(prefix.logits, plain.logits)
    assert (len(prefix.tower.grids), len(plain.tower.grids)) == (3, 5)
    chosen = policy(FAMILIES[family](), ("vision", 1, "random", 0.5), ("projector", None, "visionzip", 0.3))
    with Compression(built, chosen, processor) as compression:
        one = prefill(compression, inputs, same=found)
        two = prefill(compression, inputs)
    torch.testing.assert_close(one.logits, two.logits)
    assert [t["kept"].shape for t in one.trace] == [t["kept"].shape for t in two.trace] == [(5,), (5,)]


@pytest.mark.parametrize("family", FAMILIES)
def test_some_answers_are_right_and_compression_costs_some(family: str) -> None:
    """Keeps the other tests from passing on a task where everything is wrong."""
    whole = evaluator(family).evaluate(None, "search", 12)
    less = evaluator(family).evaluate(made(family, "both"), "search", 12)
    assert 0.2 < whole.correct.mean() < 0.9
    assert less.correct.mean() < whole.correct.mean() and less.agreement.mean() < 1
    assert np.nanmean(less.kl) > 0.01
    np.testing.assert_array_equal(less.full, whole.correct)


@pytest.mark.parametrize(
    ("family", "name"),
    [*((f, n) for f in FAMILIES for n in ("both", "vision", "input")), ("llava", "compact")],
)
def test_chunk_logits_equal_step_by_step_generate(family: str, name: str) -> None:
    built, processor = model(family)
    chosen = made(family, name)
    examples = task(family).examples("search", 4)
    with torch.inference_mode(), Compression(built, chosen, processor) as compression:
        inputs = processor.inputs([e.load() for e in examples], [e.question for e in examples])
        steps = built.generate(
            **inputs, do_sample=False, max_new_tokens=5, return_dict_in_generate=True, output_logits=True
        )
        written = steps.sequences[:, inputs["input_ids"].shape[1] :]
        state = state_of(prefill(compression, inputs))
        compression.decoder.run = None
        chunk = head(compression.adapter, run_chunk(compression.adapter, state, [Segment(written[:, :-1])]))
    expected = torch.stack(steps.logits, 1).float()
    torch.testing.assert_close(state.logits, expected[:, 0], atol=3e-5, rtol=0)
    # behind a row's end token `generate` feeds padding, which it writes itself: all the same tokens
    torch.testing.assert_close(chunk, expected[:, 1:], atol=3e-5, rtol=0)
    assert chunk.argmax(-1).tolist() == expected[:, 1:].argmax(-1).tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["mild"])
def test_correct_is_exactly_what_greedy_generate_writes(family: str, name: str) -> None:
    built, processor = model(family)
    chosen = made(family, name)
    found = evaluator(family).evaluate(chosen, "search", 12)
    references = evaluator(family)._references._answers
    examples = task(family).examples("search", 12)
    right = []
    for begin in range(0, 12, 4):
        batch = examples[begin : begin + 4]
        with torch.inference_mode(), Compression(built, chosen, processor) as compression:
            compression.ids = torch.tensor([image_number(e.image) for e in batch])
            inputs = processor.inputs([e.load() for e in batch], [e.question for e in batch])
            out = built.generate(**inputs, do_sample=False, max_new_tokens=LONGEST)
        for e, row in zip(batch, out[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            target = references["search", e.id][1]
            right.append(float(row[: len(target)] == target))
    assert found.correct.tolist() == right
    assert sum(right) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_references_are_the_stock_model_and_the_one_that_sees_no_image(family: str) -> None:
    built, processor = model(family)
    found = evaluator(family).evaluate(None, "search", 12)
    examples = task(family).examples("search", 12)
    references = evaluator(family)._references._answers
    for e, full, dark in zip(examples, found.full, found.blind, strict=True):
        inputs = processor.inputs([e.load()], [e.question])
        own, target = references["search", e.id]
        with torch.inference_mode():
            out = built.generate(**inputs, do_sample=False, max_new_tokens=len(own))
            assert out[0, inputs["input_ids"].shape[1] :].tolist() == own
            seen = _without_image(built, processor, inputs, target)
        assert full == float(own[: len(target)] == target)
        assert dark == float(seen == target)
    assert set(found.agreement) == {1.0} and set(found.kl[~np.isnan(found.kl)]) <= {0.0}


def _without_image(built: Any, processor: Any, inputs: dict[str, Any], target: list[int]) -> list[int]:
    """Greedy choice at each target token with the image masked out in every layer."""
    adapter = adapter_for(built)
    prompt = inputs["input_ids"]
    positions = capture(built, inputs).text["position_ids"]
    positions = positions[-3:] if positions.ndim == 3 else positions[None]
    ids = torch.cat([prompt, torch.tensor([target])], 1)
    after = positions[..., -1:] + 1 + torch.arange(len(target))
    positions = torch.cat([positions, after], -1)
    n = ids.shape[1]
    mask = torch.ones(n, n, dtype=torch.bool).tril() & (ids != processor.image_token_id)
    out = adapter.text(
        inputs_embeds=adapter.text.embed_tokens(ids),
        attention_mask=(mask | torch.eye(n, dtype=torch.bool))[None, None],
        position_ids=positions if len(positions) == 3 else positions[0],
        use_cache=False,
    )
    logits = built.lm_head(out.last_hidden_state[0, prompt.shape[1] - 1 : -1])
    return logits.argmax(-1).tolist()


@pytest.mark.parametrize(
    ("family", "name"),
    [*((f, n) for f in FAMILIES for n in ("random", "both", "vision")), ("llava", "compact")],
)
def test_next_question_is_asked_of_what_the_first_one_left(family: str, name: str) -> None:
    """Against another way: the other question's whole prompt with the first one's decisions repeated."""
    built, processor = model(family)
    chosen = made(family, name)
    found = evaluator(family).evaluate(chosen, "search", 12)
    expected = np.full(12, np.nan)
    for places, batch in evaluator(family)._get_batches("search", 0, 12):
        answers = known(batch.answers)
        others = [task(family).sibling("search", e) for e in batch.examples]
        pictures = [e.load() for e in batch.examples]
        with torch.inference_mode(), Compression(built, chosen, processor) as compression:
            compression.ids = batch.numbers
            first = prefill(compression, processor.inputs(pictures, [e.question for e in batch.examples]))
            other_inputs = processor.inputs(pictures, [o.question for o in others])
            again = state_of(prefill(compression, other_inputs, first.decisions))
            compression.decoder.run = None
            adapter, last = compression.adapter, (answers.asked >= 0).sum(1) - 1
            chunk = run_chunk(adapter, state_of(first), [Segment(answers.asked.clamp_min(0), answers.back)])
            after = head(adapter, chunk[torch.arange(len(last)), last])
            following = run_chunk(adapter, again, [Segment(answers.asked_target[:, :-1].clamp_min(0))])
            tokens = torch.cat([again.logits[:, None], head(adapter, following)], 1).argmax(-1)
        torch.testing.assert_close(after, again.logits, atol=5e-5, rtol=0)
        wanted = answers.asked_target
        expected[places] = ((tokens == wanted) | (wanted < 0)).all(1).float().numpy()
    assert found.next_correct.tolist() == expected.tolist()


def test_the_answer_changes_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    built, processor = model("qwen")
    seen: list[Any] = []
    decide = Ledger.decide

    def watched(self: Ledger, *args: Any) -> Any:
        made = decide(self, *args)
        seen.append(None if made is None else (made.anchors.tolist(), made.rows.columns.tolist()))
        return made

    monkeypatch.setattr(Ledger, "decide", watched)
    results = []
    for answers in ({}, {e.id: "green blue red" for e in Toy(SIZES, images=4).examples("search")}):
        seen.clear()
        judge = Evaluator(built, Known(answers, sizes=SIZES, images=4), processor=processor)
        outcomes = judge.evaluate(made("qwen", "both"), "search", 8)
        results.append((list(seen), outcomes))
    assert results[0][0] == results[1][0] and results[0][0]
    assert results[0][1].answer.tolist() != results[1][1].answer.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_increments_join_to_the_whole(family: str) -> None:
    chosen = made(family, "both")
    whole = evaluator(family).evaluate(chosen, "search", 12)
    parts = evaluator(family).evaluate(chosen, "search", 4)
    parts = parts + evaluator(family).evaluate(chosen, "search", 8, start=4)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name), err_msg=name)
    for one, two in zip(whole.trace, parts.trace, strict=True):
        assert one == pytest.approx(two)
    assert len(evaluator(family).evaluate(chosen, "search", 99)) == 12
    with pytest.raises(DataError, match="no example number 12"):
        evaluator(family).evaluate(chosen, "search", 4, start=12)


def test_keeping_everything_is_the_uncompressed_model() -> None:
    chosen = policy(qwen_folder(), ("projector", None, "random", 1.0), ("decoder", 2, "fastv", 1.0))
    found = evaluator("qwen").evaluate(chosen, "search", 12)
    np.testing.assert_array_equal(found.correct, found.full)
    assert set(found.agreement) == {1.0} and np.nanmax(found.kl) < 1e-6
    np.testing.assert_array_equal(
        found.next_correct, evaluator("qwen").evaluate(None, "search", 12).next_correct
    )


def test_without_answers_quality_is_agreement_with_the_uncompressed_model() -> None:
    built, processor = model("llava")
    judge = Evaluator(
        built, Toy(images=3, answers=False), processor=processor, on="tiny", new_tokens=5, batch=4
    )
    found = judge.evaluate(made("llava", "projector"), "search", 6)
    np.testing.assert_array_equal(found.correct, found.agreement)
    assert set(found.full) == {1.0} and found.blind.mean() < 1
    quality = next(x for x in judge.numbers(found) if x.name == "quality")
    assert quality.value == pytest.approx(found.agreement.mean())
    assert (quality.on, quality.kind, quality.n) == ("tiny", "measured", 6)


def test_a_file_of_ordinary_pictures_of_mixed_sizes_without_answers(tmp_path: Path) -> None:
    lines = []
    for i, size in enumerate([(84, 84), (300, 50), (40, 200), (91, 63), (84, 84), (120, 120)]):
        picture(i, *size).save(tmp_path / f"{i}.png")
        lines += [{"image": f"{i}.png", "question": q} for q in ("what is left ?", "what is this ?")]
    lines.append({"image": ["0.png", "4.png"], "question": "are they the same ?"})
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    built, processor = model("qwen")
    judge = Evaluator(built, Jsonl(path), processor=processor, new_tokens=4)
    total = 0
    for split in SPLITS:
        found = judge.evaluate(made("qwen", "both"), split, 99)
        total += len(found)
        assert found.metric == "agreement" and not np.isnan(found.correct).any()
        alone = [e.id for e in judge.task.examples(split) if judge.task.sibling(split, e) is None]
        assert [i for i, x in zip(found.id, found.next_correct, strict=True) if np.isnan(x)] == alone
    assert total == 13


@pytest.mark.parametrize("limit", [0, 150_000])
def test_a_small_memory_only_costs_time(limit: int) -> None:
    built, processor = model("qwen")
    judge = Evaluator(built, task("qwen"), processor=processor, batch=4, limit_bytes=limit)
    for name in ("both", "decoder", "input"):
        chosen = made("qwen", name)
        for _ in range(2):
            same(judge.evaluate(chosen, "search", 12), evaluator("qwen").evaluate(chosen, "search", 12))
        assert judge._prefixes.nbytes <= limit


def test_prefixes_of_the_latest_round_stay_and_older_ones_make_room() -> None:
    built, processor = model("llava")
    examples = task("llava").examples("search", 4)
    prefix = capture(built, processor.inputs([e.load() for e in examples], [e.question for e in examples]))
    size, small = nbytes(prefix), nbytes(light(prefix))
    assert small < size / 4
    store = PrefixStore(2 * size + small)
    store.begin()
    for key in "abc":
        store.put(key, prefix)
    assert [bool(store.get(k).hidden) for k in "abc"] == [True, True, False]  # type: ignore[union-attr]
    for _ in range(3):
        store.begin()
        store.get("a")
    store.put("d", prefix)
    assert store.get("d") is not None and store.get("a") is not None and store.get("b") is None
    assert store.nbytes <= store.limit_bytes


def test_input_budgets_that_show_the_same_grid_share_a_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    built, processor = model("qwen")
    judge = Evaluator(built, Toy(images=2), processor=processor)
    judge.evaluate(None, "search", 4)
    captures: list[int] = []
    monkeypatch.setattr(
        "autotc.evaluate.capture", lambda *args, **kw: captures.append(1) or capture(*args, **kw)
    )
    asked = []
    for keep in (0.45, 0.46, 0.2):
        chosen = policy(qwen_folder(), ("input", None, "downsample", keep), ("decoder", 2, "fastv", 0.1))
        found = judge.evaluate(chosen, "search", 4)
        asked.append((len(captures), found.trace[0]["asked"], found.trace[0]["kept"]))
    # a grid is captured when it is asked for the second time
    assert asked == [(0, 16.0, 16.0), (1, 17.0, 16.0), (1, 7.0, 4.0)]


def test_the_benchmark_times_both_sides_and_finds_them_identical() -> None:
    folder = qwen_folder()
    policies = [policy(folder, *POLICIES[name]) for name in ("both", "random", "received")]
    found = reuse_benchmark(folder, Toy(SIZES, images=4), policies, 8, on="tiny")
    assert found["identical"] and (found["on"], found["examples"]) == ("tiny", 8)
    assert [(s["site"], s["policies"]) for s in found["sites"]] == [("vision", 1), ("projector", 2)]
    whole = found["overall"]
    assert whole["policies"] == 3 and whole["ratio"] == pytest.approx(whole["plain_s"] / whole["reuse_s"])
    assert whole["plain_s"] == pytest.approx(sum(s["plain_s"] for s in found["sites"]))


def test_the_tower_is_put_back_after_a_policy_that_started_inside_it() -> None:
    built, _ = model("qwen")
    evaluator("qwen").evaluate(made("qwen", "received"), "search", 4)
    for block in adapter_for(built).blocks:
        assert "forward" not in vars(block) and not block._forward_pre_hooks


def test_batches_follow_a_grid_and_hold_examples_of_about_one_size() -> None:
    assert cut([10] * 10, 3, 4) == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]
    assert cut([10, 40, 11, 39], 0, 4) == [[0, 2], [1, 3]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p.model_copy(update={"model": p.model.model_copy(update={"family": "llava"})}), "family"),
        (
            lambda p: p.model_copy(update={"model": p.model.model_copy(update={"decoder_layers": 28})}),
            "28 decoder",
        ),
    ],
)
def test_a_policy_for_another_model_is_refused(change: Callable[[Policy], Policy], says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        evaluator("qwen").evaluate(change(made("qwen", "both")), "search", 4)


def test_a_shipped_proxy_is_named_as_one() -> None:
    inside = Path(autotc.__file__).parent / "proxies"
    found = [p for p in inside.iterdir() if (p / "config.json").is_file()]
    assert all(_named(str(p)) == f"proxy:{p.name}" for p in found)
    assert _named("Qwen/Qwen2.5-VL-7B-Instruct") == "Qwen/Qwen2.5-VL-7B-Instruct"
