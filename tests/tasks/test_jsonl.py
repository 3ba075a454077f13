"""The JSONL data set: splits, order, and every kind of bad line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotc.errors import DataError
from autotc.task import SPLITS
from autotc.tasks.jsonl import Jsonl


def picture(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path.name


def write(folder: Path, items: list[dict | str], name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text(
        "\n".join(x if isinstance(x, str) else json.dumps(x) for x in items) + "\n", encoding="utf-8"
    )
    return path


def many(folder: Path, images: int, questions: int, answer: str | None = "yes") -> list[dict]:
    items = []
    for i in range(images):
        name = picture(folder / f"{i}.png", i)
        for q in range(questions):
            item = {"image": name, "question": f"question {q}?", "group": "ab"[q % 2]}
            items.append(item if answer is None else {**item, "answer": answer})
    return items


def test_three_splits_share_no_image_and_hold_every_example(tmp_path: Path) -> None:
    task = Jsonl(write(tmp_path, many(tmp_path, 40, 3)))
    found = {split: task.examples(split) for split in SPLITS}
    keys = [{e.image for e in found[split]} for split in SPLITS]
    assert not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]
    assert sorted(e.id for s in SPLITS for e in found[s]) == sorted(str(i) for i in range(1, 121))
    assert [len(found[s]) for s in SPLITS] == [48, 36, 36]


def test_the_same_content_under_two_names_is_one_image(tmp_path: Path) -> None:
    items = many(tmp_path, 9, 1)
    for i in range(9):
        (tmp_path / f"copy{i}.png").write_bytes((tmp_path / f"{i}.png").read_bytes())
        items.append({"image": f"copy{i}.png", "question": "again?", "answer": "no"})
    task = Jsonl(write(tmp_path, items))
    home = {e.id: split for split in SPLITS for e in task.examples(split)}
    assert all(home[str(i + 1)] == home[str(i + 10)] for i in range(9))


def test_examples_that_share_one_of_several_images_stay_together(tmp_path: Path) -> None:
    many(tmp_path, 12, 1)
    chain = [{"image": [f"{i}.png", f"{i + 1}.png"], "question": "?", "answer": "a"} for i in range(5)]
    rest = [{"image": f"{i}.png", "question": "?", "answer": "a"} for i in range(6, 12)]
    task = Jsonl(write(tmp_path, [*chain, *rest]))
    home = {e.id: (split, e.image) for split in SPLITS for e in task.examples(split)}
    assert len({home[str(i)] for i in range(1, 6)}) == 1
    assert len(home) == 11


def test_order_is_the_same_at_each_call_and_for_another_order_of_lines(tmp_path: Path) -> None:
    items = [{**x, "id": f"e{i}"} for i, x in enumerate(many(tmp_path, 20, 2))]
    one = Jsonl(write(tmp_path, items))
    two = Jsonl(write(tmp_path, items[::-1], "other.jsonl"))
    for split in SPLITS:
        assert {e.id for e in one.examples(split)} == {e.id for e in two.examples(split)}
        assert [e.id for e in one.examples(split, 5)] == [e.id for e in one.examples(split)][:5]


def test_every_beginning_of_a_split_has_the_groups_of_the_whole(tmp_path: Path) -> None:
    task = Jsonl(write(tmp_path, many(tmp_path, 60, 2)))
    groups = [e.group for e in task.examples("search")]
    for n in range(4, len(groups)):
        assert abs(groups[:n].count("a") - n / 2) <= 1.5


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"image": "0.png", "question": ', "line 3: not JSON"),
        ("[1, 2]", "line 3: expected a JSON object"),
        ('{"image": "0.png"}', "line 3: field 'question' is missing"),
        ('{"imge": "0.png", "question": "x"}', "line 3: field 'image' is missing. Did you mean 'imge'?"),
        ('{"image": [], "question": "x"}', "line 3: image: expected a path"),
        ('{"image": 3, "question": "x"}', "line 3: image: expected a path"),
        ('{"image": "0.png", "question": " "}', "line 3: question: expected text"),
        ('{"image": "0.png", "question": "x", "answer": ["a"]}', "line 3: answer: expected text or a number"),
        ('{"image": "0.png", "question": "x"}', "line 3: no 'answer', but other lines have one"),
        ('{"image": "0.png", "question": "x", "answer": "a", "id": 1}', "line 3: id '1' was used in line 1"),
        ('{"image": "gone.png", "question": "x", "answer": "a"}', "line 3: image"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    items: list[dict | str] = [*many(tmp_path, 2, 1), line, *many(tmp_path, 4, 1)[2:]]
    with pytest.raises(DataError) as caught:
        Jsonl(write(tmp_path, items))
    assert says in str(caught.value) and "data.jsonl" in str(caught.value)


def test_no_file_no_examples_not_text_and_too_few_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        Jsonl(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="no examples"):
        Jsonl(write(tmp_path, ["", "  "]))
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        Jsonl(tmp_path / "binary.jsonl")
    with pytest.raises(DataError, match=r"2 different image\(s\)"):
        Jsonl(write(tmp_path, many(tmp_path, 2, 5)))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_corrupt_image_raises_with_its_line_or_is_counted(tmp_path: Path, suffix: str) -> None:
    items = many(tmp_path, 12, 1)
    picture(tmp_path / f"bad.{suffix}", 99, (200, 200))
    whole = (tmp_path / f"bad.{suffix}").read_bytes()
    (tmp_path / f"bad.{suffix}").write_bytes(whole[: len(whole) // 2])
    items[6]["image"] = f"bad.{suffix}"
    path = write(tmp_path, items)
    task = Jsonl(path)
    with pytest.raises(DataError, match=r"data\.jsonl: line 7: image .*bad.* corrupt"):
        for split in SPLITS:
            task.examples(split)
    kind = Jsonl(path, skip_bad=True)
    ids = [e.id for split in SPLITS for e in kind.examples(split)] + [e.id for e in kind.examples("search")]
    assert "7" not in ids and len(set(ids)) == 11
    assert [number for number, _ in kind.skipped] == [7]


def test_missing_images_are_counted_too_and_all_missing_is_an_error(tmp_path: Path) -> None:
    items = many(tmp_path, 6, 1)
    items[2]["image"] = "gone.png"
    task = Jsonl(write(tmp_path, items), skip_bad=True)
    assert [n for n, _ in task.skipped] == [3] and sum(len(task.examples(s)) for s in SPLITS) == 5
    with pytest.raises(DataError, match="none of the 3 examples"):
        Jsonl(write(tmp_path, [{"image": f"no{i}.png", "question": "?"} for i in range(3)]), skip_bad=True)


def test_without_answers_quality_is_agreement_and_numbers_are_text(tmp_path: Path) -> None:
    assert Jsonl(write(tmp_path, many(tmp_path, 4, 1, answer=None))).metric == "agreement"
    task = Jsonl(write(tmp_path, [{**x, "answer": 3} for x in many(tmp_path, 4, 1)]))
    assert task.metric == "accuracy" and {e.answer for e in task.examples("search")} == {"3"}


def test_fingerprint_follows_questions_answers_and_pixels(tmp_path: Path) -> None:
    items = many(tmp_path, 4, 1)
    base = Jsonl(write(tmp_path, items)).fingerprint
    assert Jsonl(write(tmp_path, items, "same.jsonl")).fingerprint == base
    changed = [{**items[0], "answer": "no"}, *items[1:]]
    assert Jsonl(write(tmp_path, changed)).fingerprint != base
    picture(tmp_path / "0.png", 1000)
    assert Jsonl(write(tmp_path, items)).fingerprint != base


def test_the_workload_is_the_data_s_own_mix(tmp_path: Path) -> None:
    picture(tmp_path / "s.png", 0, (100, 50))
    picture(tmp_path / "m.png", 1, (200, 100))
    picture(tmp_path / "l.png", 2, (300, 300))
    lines = [
        {"image": x, "question": "one two three", "answer": "a b"}
        for x in ("s.png", "m.png", "m.png", "l.png")
    ]
    lines.append({"image": ["s.png", "l.png"], "question": "one", "answer": "a"})
    found = Jsonl(
        write(
            tmp_path,
            [
                *lines,
                {"image": picture(tmp_path / "x.png", 5), "question": "q", "answer": "a"},
                {"image": picture(tmp_path / "y.png", 6), "question": "q", "answer": "a"},
            ],
        )
    )
    work = found.workload(count_tokens=lambda text: 10 + len(text.split()))
    singles = [r for r in work.requests if r.images == 1]
    pairs = [r for r in work.requests if r.images == 2]
    assert sum(work.weights) == pytest.approx(1) and len(work.requests) <= 8
    assert [(r.width, r.height, r.prompt_tokens, r.new_tokens) for r in pairs] == [(200, 175, 11, 1)]
    assert pairs[0].weight == pytest.approx(1 / 7)
    assert (300, 300) in {(r.width, r.height) for r in singles}
    assert max(r.new_tokens for r in singles) == 2


def test_the_sibling_is_the_next_question_about_the_same_images(tmp_path: Path) -> None:
    items = many(tmp_path, 6, 3)
    pair = {"image": ["0.png", "1.png"], "question": "both?", "answer": "a"}
    task = Jsonl(write(tmp_path, [*items, pair]))
    found = {e.id: (split, e) for split in SPLITS for e in task.examples(split)}
    others = {name: task.sibling(split, e) for name, (split, e) in found.items()}
    assert [others[name].id for name in ("1", "2", "3")] == ["2", "3", "1"]  # type: ignore[union-attr]
    assert others["19"] is None
    assert all(o is None or o.image == found[name][1].image for name, o in others.items())
