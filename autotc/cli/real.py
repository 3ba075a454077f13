"""`calibrate` and `real`: what a person with weights runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autotc.cli.options import Device, Json, SkipBad, Storage, print_json, say

CALIBRATE_EXAMPLES = """**Examples**

`autotc calibrate --model /models/Qwen2.5-VL-7B-Instruct --data my.jsonl`

`autotc calibrate --model /models/llava-1.5-7b-hf --data my.jsonl --anchors 40 --examples 256 --device cuda:1`

The same command goes on where it was; with more `--anchors` only the new ones are run. With the same model and data,
`autotc search --evaluate-on full` then screens proposals on the proxy, where the correlation allows it.
"""

Weights = Annotated[
    str, typer.Option("--model", help="The folder with the real weights (or an id whose weights are here).")
]
Data = Annotated[str, typer.Option("--data", help="Your own JSONL.")]


def calibrate(
    model: Weights,
    data: Data,
    anchors: Annotated[
        int, typer.Option("--anchors", min=6, max=200, help="Policies measured on model and proxy.")
    ] = 20,
    examples: Annotated[
        int, typer.Option("--examples", min=16, help="Examples of the selection split each runs on.")
    ] = 128,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Measure how far the family's proxy can be trusted for your model: its rank correlation over anchor policies.

    Anchors are baselines, published recipes and proposals of the search at three budgets of equal cost. Your model
    runs them on the selection split of your data, the proxy on the built-in scenes; held-out data is not looked at.
    """
    from autotc import calibrating
    from autotc.tables import real as tables

    found = calibrating.calibrate(model, data, anchors, examples, storage, device, skip_bad, say)
    if as_json:
        print_json(found.as_dict())
    else:
        tables.calibration(found)


def real(
    model: Weights,
    data: Data,
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="A policy to verify first; default: the best of the latest study."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write; default: studies/real/<name of the model>.")
    ] = None,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Trials at each of the three budgets.")] = 40,
    anchors: Annotated[int, typer.Option("--anchors", min=6, help="Policies of the calibration.")] = 20,
    examples: Annotated[
        int, typer.Option("--examples", min=16, help="Examples of a trial; held-out are twice as many.")
    ] = 256,
    max_drop: Annotated[
        float, typer.Option("--max-drop", min=0.0, max=1.0, help="Largest loss that counts as verified.")
    ] = 0.02,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Verify, calibrate, and search at 192, 128 and 64 of 576 tokens: everything for one model and one data set.

    Writes README.md with the tables, the fronts and the policies of the three budgets into one folder. What is stored
    already is not run again, so the same command goes on where it was.
    """
    from autotc import real as everything

    folder = out if out is not None else Path("studies/real") / Path(model).name.lower()
    asked = everything.Asked(
        model, data, folder, policy, trials, anchors, examples, max_drop, storage, device, skip_bad, as_json
    )
    found = everything.run(asked, say)
    if as_json:
        print_json(found.as_dict())
    else:
        typer.echo((folder / "README.md").read_text(encoding="utf-8"))
        say(f"written to {folder}")
