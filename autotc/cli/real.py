"""`calibrate` and `real`: what a person with weights runs."""

from __future__ import annotations

from typing import Annotated

import typer

from autotc.cli.options import Json, Storage, print_json, say

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
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable images out and count them.")]
Device = Annotated[
    str,
    typer.Option(
        "--device", help="auto (a GPU that holds the weights, else the CPU), cpu, cuda, cuda:1 or mps."
    ),
]


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
