"""`autotc bench transfer`: draw the policies, run what is missing, analyse and write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autotc.adapter import resolve_model
from autotc.errors import SpecError
from autotc.export import write_text
from autotc.leaderboard import Board
from autotc.policy import Policy
from autotc.proxies import proxy_folder
from autotc.transfer import FILE, depth, page, picture
from autotc.transfer.depth import Depths
from autotc.transfer.measure import Measured, measure
from autotc.transfer.sample import Family, Sampled, sample_policies
from autotc.transfer.study import complete, study, table
from autotc.workload import parse_workload

MODELS = ("qwen2.5-vl", "llava-1.5-7b")  # whose costs count; the first one's space is drawn from
WORKLOAD = "vqa"


def families() -> list[Family]:
    """Return the compared families, each with its shipped proxy, whose depths its small twins share."""
    found = []
    for name in MODELS:
        full = resolve_model(name).anatomy
        folder = proxy_folder(full.family)
        assert folder is not None
        found.append(Family(full, (resolve_model(str(folder)).anatomy,)))
    return found


def policies(out: Path, n: int, seed: int = 0) -> list[Sampled]:
    """Return the policies in a folder, drawn when there are none.

    Raises:
        SpecError: the folder holds another number of policies, or something else.
    """
    path = out / "policies.json"
    if not path.is_file():
        drawn = sample_policies(families(), parse_workload(WORKLOAD), n, seed)
        rows = [
            {
                "share": s.share,
                "kind": s.kind,
                "policies": {name: json.loads(p.json_text()) for name, p in s.policies.items()},
            }
            for s in drawn
        ]
        out.mkdir(parents=True, exist_ok=True)
        write_text(path, "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    try:
        found = [
            Sampled(
                row["share"],
                row["kind"],
                {name: Policy.model_validate(document) for name, document in row["policies"].items()},
            )
            for row in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise SpecError(
            f"{path}: not the policies of this study ({error}); delete it to draw them"
        ) from error
    if len(found) != n:
        raise SpecError(f"--policies: {n}, but {path} holds {len(found)}; delete it to draw others")
    return found


def run(
    name: str,
    folder: Path,
    out: Path,
    n: int,
    examples: int,
    depths: bool,
    each: Callable[[str], None],
) -> None:
    """Measure the policies on one model, and what depth means in it; an interrupted run goes on.

    Args:
        name: of the model, and of its file in `out`.
        folder: its weights.
        out: the study's folder.
        n: policies.
        examples: of each.
        depths: measure also what depth means.
        each: called with a line after every few policies.
    """
    sampled = policies(out, n)
    family = resolve_model(str(folder)).anatomy.family
    if family not in sampled[0].policies:
        raise SpecError(f"--model {name}: its family {family!r} is none of {', '.join(sampled[0].policies)}")

    def done(count: int, total: int) -> None:
        each(f"{name} {count}/{total}")

    measure(name, folder, [s.policies[family] for s in sampled], out / f"{name}.npz", examples, done)
    path = out / f"depth-{name}.npz"
    if depths and not path.is_file():
        depth.measure(name, folder, done).write(path)


def trainings(out: Path) -> dict[str, dict[str, float]]:
    """Return steps, images and minutes of the trainings whose logs lie in `trainings`, by model."""
    found = {}
    for path in sorted((out / "trainings").glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        last = [row for row in rows if "images" in row][-1]
        found[path.stem] = {
            "steps": last["step"],
            "images": last["images"],
            "minutes": round(last["seconds"] / 60, 1),
        }
    return found


def analyse(out: Path, n: int) -> dict[str, Any]:
    """Analyse the outcomes in a folder, write page and picture there, and the ceilings that autotc prints.

    Args:
        out: the study's folder.
        n: policies.

    Raises:
        SpecError: too few models have run the policies.
    """
    paths = sorted(p for p in out.glob("*.npz") if not p.name.startswith("depth-"))
    models = [model for model in map(Measured.read, paths) if complete(model)]
    if len(models) < 2:
        raise SpecError(
            f"--out: {out}: {len(models)} models have run every policy there, two are needed; name them with --model"
        )
    found = table(models, policies(out, n))
    boards = [Board.read(path) for path in sorted((out.parent / "leaderboard").glob("*.json"))]
    depths = [Depths.read(path) for path in sorted(out.glob("depth-*.npz"))]
    result = study(found, boards, depths, trainings(out))
    write_text(out / "README.md", page.write(result, "transfer.png"))
    picture.write(result, found, out / "transfer.png")
    write_text(FILE, json.dumps(result["ceilings"], indent=1, sort_keys=True) + "\n")
    return result
