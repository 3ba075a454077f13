"""A user's own data: a JSONL file of pictures and questions.

One JSON object a line::

    {"image": "pictures/1.jpg", "question": "What is written on the door?", "answer": "exit", "group": "text"}

`image` is a path or a list of paths, relative to the file; `answer`, `group` and `id` are optional. Answers
are given to all examples or to none: without them quality is agreement with the uncompressed model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from autotc.errors import DataError
from autotc.registry import nearest
from autotc.task import SPLITS, Example, Split, Task
from autotc.workload import Request, Workload

FIELDS = ("image", "question", "answer", "group", "id")
SHARES: dict[Split, float] = {"search": 0.4, "selection": 0.3, "held-out": 0.3}
_PROBE_BYTES = 1 << 16


@dataclass(frozen=True)
class Line:
    """One example as the file has it: its line number, from 1, and its fields checked."""

    number: int
    id: str
    images: tuple[Path, ...]
    question: str
    answer: str | None
    group: str


@dataclass(frozen=True)
class Pictures:
    """Opens the images of an example; an unreadable one is reported with file and line."""

    paths: tuple[Path, ...]
    where: str

    def __call__(self) -> list[Image.Image]:
        """Return the images, RGB, fully decoded.

        Raises:
            DataError: one cannot be read; the message names data file, line and image.
        """
        return [_decode(path, self.where) for path in self.paths]


@dataclass
class Jsonl(Task):
    """The examples of a JSONL file in three disjoint splits by image.

    Two paths with the same content are one image; examples that share an image are in one split. The order
    within a split mixes groups evenly, so the first n examples of any n have about the groups of the whole.

    Args:
        path: the file.
        skip_bad: leave lines with a missing or corrupt image out and count them in `skipped`, instead of
            raising.

    Raises:
        DataError: the file is unreadable or empty, a line is malformed (named by number), or there are fewer
            than three different images.
    """

    path: Path
    skip_bad: bool = False
    skipped: list[tuple[int, str]] = field(default_factory=list)

    name: ClassVar[str] = "jsonl"

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        lines = list(_read(self.path))
        if not lines:
            raise DataError(
                f"{self.path}: no examples; expected one JSON object a line with 'image' and 'question'"
            )
        self._answered = _all_or_none(self.path, lines)
        self._prints, lines = self._identify(lines)
        self._split = _cut(lines, self._prints, self.path)
        self._sound: dict[Path, str | None] = {}
        self._clusters: dict[str, list[tuple[str, Line]]] = defaultdict(list)
        for cluster, line in sorted(
            (x for part in self._split.values() for x in part), key=lambda x: x[1].number
        ):
            self._clusters[cluster].append((cluster, line))
        self.fingerprint_ = _digest(
            [(x.id, x.question, x.answer, [self._prints[p] for p in x.images]) for x in lines]
        )

    @property
    def answered(self) -> bool:
        """Whether the examples carry reference answers."""
        return self._answered

    @property
    def metric(self) -> str:  # type: ignore[override]
        """`accuracy`, or `agreement` when the data has no answers."""
        return "accuracy" if self._answered else "agreement"

    @property
    def fingerprint(self) -> str:
        """A short hash of questions, answers and image contents (size, first and last 64 KiB)."""
        return self.fingerprint_

    def examples(self, split: Split, n: int | None = None) -> Sequence[Example]:
        """Return the first `n` examples of a split, all when None or when there are fewer; images are decoded
        once to see that they are sound.

        Raises:
            DataError: a corrupt image, unless `skip_bad`; no example left in the split.
        """
        found: list[Example] = []
        for cluster, line in self._split[split]:
            if n is not None and len(found) == n:
                break
            if self._usable(line):
                found.append(self._example(cluster, line))
        if not found and n != 0:
            raise DataError(f"{self.path}: no usable example in the {split} split")
        return found

    def sibling(self, split: Split, example: Example) -> Example | None:
        """Return the next question of the file about the same images, after the last one the first."""
        pictures = example.load
        assert isinstance(pictures, Pictures)
        mine = [self._prints[path] for path in pictures.paths]
        same = [
            (cluster, line)
            for cluster, line in self._clusters[example.image]
            if [self._prints[path] for path in line.images] == mine
        ]
        at = next(i for i, (_, line) in enumerate(same) if line.id == example.id)
        cluster, line = same[(at + 1) % len(same)]
        return None if line.id == example.id else self._example(cluster, line)

    def workload(self, count_tokens: Callable[[str], int] | None = None, new_tokens: int = 16) -> Workload:
        """Return the data's own mix of request shapes, at most eight, by number of images and by size.

        Args:
            count_tokens: tokens of a prompt (chat template included) without its images; by default 4
                characters a token and 24 for the template.
            new_tokens: tokens generated, where there is no answer to count.
        """
        count = count_tokens or (lambda text: 24 + -(-len(text) // 4))
        shapes = []
        for line in sorted({x for split in SPLITS for _, x in self._split[split]}, key=lambda x: x.number):
            sizes = [_size(path) for path in line.images]
            if all(size is not None for size in sizes):
                width, height = (round(sum(s[i] for s in sizes if s) / len(sizes)) for i in (0, 1))
                new = new_tokens if line.answer is None else max(1, count(line.answer) - count(""))
                shapes.append((len(sizes), width, height, count(line.question), new))
        if not shapes:
            raise DataError(
                f"{self.path}: no readable image, so the mix of requests cannot be read from the data"
            )
        return Workload(tuple(_summarise(shapes)), 1, self.path.name)

    def _example(self, cluster: str, line: Line) -> Example:
        load = Pictures(line.images, f"{self.path}: line {line.number}")
        return Example(line.id, cluster, load, line.question, line.answer, line.group)

    def _usable(self, line: Line) -> bool:
        for path in line.images:
            if path not in self._sound:
                self._sound[path] = None
                try:
                    _decode(path, f"{self.path}: line {line.number}")
                except DataError as error:
                    if not self.skip_bad:
                        del self._sound[path]
                        raise
                    self._sound[path] = str(error)
            if self._sound[path] is not None:
                self._skip(line, str(self._sound[path]))
                return False
        return True

    def _skip(self, line: Line, reason: str) -> None:
        if all(number != line.number for number, _ in self.skipped):
            self.skipped.append((line.number, reason))

    def _identify(self, lines: list[Line]) -> tuple[dict[Path, str], list[Line]]:
        prints: dict[Path, str] = {}
        kept = []
        for line in lines:
            try:
                for path in line.images:
                    if path not in prints:
                        prints[path] = _probe(path)
            except OSError as error:
                reason = f"{self.path}: line {line.number}: image {str(path)!r}: {error.strerror or error}"
                if not self.skip_bad:
                    raise DataError(
                        f"{reason}. Correct the path (relative to the file), or pass --skip-bad"
                    ) from error
                self._skip(line, reason)
                continue
            kept.append(line)
        if not kept:
            raise DataError(f"{self.path}: none of the {len(lines)} examples has a readable image")
        return prints, kept


def _read(path: Path) -> Iterable[Line]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); expected JSON lines"
        ) from error
    seen: dict[str, int] = {}
    for number, raw in enumerate(text.split("\n"), 1):
        if not raw.strip():
            continue
        where = f"{path}: line {number}"
        try:
            item = json.loads(raw)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
        line = _line(item, number, where, path.parent)
        if line.id in seen:
            raise DataError(f"{where}: id {line.id!r} was used in line {seen[line.id]}; ids are unique")
        seen[line.id] = number
        yield line


def _line(item: Any, number: int, where: str, folder: Path) -> Line:
    if not isinstance(item, dict):
        raise DataError(
            f"{where}: expected a JSON object with 'image' and 'question', got {type(item).__name__}"
        )
    for name in ("image", "question"):
        if name not in item:
            others = [key for key in item if key not in FIELDS]
            hint = f" {nearest(name, others)}" if others else ""
            raise DataError(f"{where}: field {name!r} is missing.{hint}")
    images = item["image"] if isinstance(item["image"], list) else [item["image"]]
    if not images or not all(isinstance(x, str) and x for x in images):
        raise DataError(f"{where}: image: expected a path or a list of paths")
    if not isinstance(item["question"], str) or not item["question"].strip():
        raise DataError(f"{where}: question: expected text")
    answer = item.get("answer")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    if answer is not None and (not isinstance(answer, str) or not answer.strip()):
        raise DataError(f"{where}: answer: expected text or a number, or leave it out")
    paths = tuple(Path(os.path.normpath(folder / x)) for x in images)
    return Line(
        number, str(item.get("id", number)), paths, item["question"], answer, str(item.get("group", "all"))
    )


def _all_or_none(path: Path, lines: list[Line]) -> bool:
    without = [x.number for x in lines if x.answer is None]
    if without and len(without) < len(lines):
        raise DataError(
            f"{path}: line {without[0]}: no 'answer', but other lines have one: "
            f"give answers to all examples or to none ({len(without)} of {len(lines)} have none)"
        )
    return not without


def _probe(path: Path) -> str:
    """Return what identifies an image file: its size and a hash of its first and last 64 KiB."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(file.read(_PROBE_BYTES))
        if size > 2 * _PROBE_BYTES:
            file.seek(-_PROBE_BYTES, os.SEEK_END)
        digest.update(file.read(_PROBE_BYTES))
    return f"{size}-{digest.hexdigest()[:24]}"


def _decode(path: Path, where: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Image.DecompressionBombError as error:
        raise DataError(f"{where}: image {str(path)!r}: {error}") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        # Pillow reports damaged files by any of these, by format
        raise DataError(
            f"{where}: image {str(path)!r} is unreadable or corrupt ({error}). Replace it, or pass --skip-bad"
        ) from error


def _size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError):
        return None


def _cut(lines: list[Line], prints: dict[Path, str], path: Path) -> dict[Split, list[tuple[str, Line]]]:
    """Divide the examples by clusters of shared images, in the order of a hash; shares are counted in
    examples.
    """
    parent: dict[str, str] = {}

    def root(x: str) -> str:
        while parent.setdefault(x, x) != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    for line in lines:
        first, *others = (root(prints[p]) for p in line.images)
        for other in others:
            low, high = sorted((root(first), root(other)))
            parent[high] = low
    clusters: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        clusters[root(prints[line.images[0]])].append(line)
    if len(clusters) < len(SPLITS):
        raise DataError(
            f"{path}: {len(clusters)} different image(s), but search, selection and held-out share none: "
            f"at least {len(SPLITS)} are needed"
        )
    order = sorted(clusters, key=lambda key: _digest(key))
    result: dict[Split, list[tuple[str, Line]]] = {}
    begin, done, target = 0, 0, 0.0
    for i, split in enumerate(SPLITS):
        target += SHARES[split] * len(lines)
        last = len(order) - (len(SPLITS) - 1 - i)  # every later split needs one cluster
        end = begin
        while end < last and (
            end == begin or i == len(SPLITS) - 1 or done + len(clusters[order[end]]) / 2 <= target
        ):
            done += len(clusters[order[end]])
            end += 1
        result[split] = _stratify([(key, line) for key in order[begin:end] for line in clusters[key]])
        begin = end
    return result


def _stratify(items: list[tuple[str, Line]]) -> list[tuple[str, Line]]:
    """Order examples so that every beginning has about the whole's shares of groups; within a group first
    questions of images come before second ones, so that a beginning sees many images."""
    turn: dict[str, int] = defaultdict(int)
    ranked = []
    for key, line in items:
        ranked.append((turn[key], _digest([key, line.id]), key, line))
        turn[key] += 1
    groups: dict[str, list[tuple[int, str, str, Line]]] = defaultdict(list)
    for entry in sorted(ranked, key=lambda e: e[:2]):
        groups[entry[3].group].append(entry)
    placed = [
        ((rank + 0.5) / len(entries), entry[1], entry[2], entry[3])
        for entries in groups.values()
        for rank, entry in enumerate(entries)
    ]
    return [(key, line) for _, _, key, line in sorted(placed, key=lambda e: e[:2])]


def _summarise(shapes: list[tuple[int, int, int, int, int]], most: int = 8) -> Iterable[Request]:
    """Group shapes (images, width, height, prompt, new): by exact size where that is at most `most` groups,
    else by area into bins of equal share."""
    parts: dict[tuple[int, ...], list[tuple[int, int, int, int, int]]] = defaultdict(list)
    if len({s[:3] for s in shapes}) <= most:
        for shape in shapes:
            parts[shape[:3]].append(shape)
    else:
        counts = {images: sum(s[0] == images for s in shapes) for images in {s[0] for s in shapes}}
        largest = sorted(counts, key=lambda images: (-counts[images], images))[: most // 2]
        for images in largest:
            mine = sorted((s for s in shapes if s[0] == images), key=lambda s: (s[1] * s[2], s))
            bins = max(1, (most - len(largest)) * len(mine) // len(shapes))
            for rank, shape in enumerate(mine):
                parts[images, rank * bins // len(mine)].append(shape)
    total = sum(len(part) for part in parts.values())
    for _, part in sorted(parts.items()):
        width, height, prompt, new = (
            max(1, round(sum(s[j] for s in part) / len(part))) for j in (1, 2, 3, 4)
        )
        yield Request(part[0][0], width, height, 1, prompt, new, 1, len(part) / total)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
