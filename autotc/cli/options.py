"""Options that several commands share, and how a command answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage", help="Database URL; default AUTOTC_STORAGE or sqlite:///autotc.db in this folder."
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model", help="An alias (see: autotc list models), a Hugging Face id, or a folder with config.json."
    ),
]
WorkloadOption = Annotated[
    str,
    typer.Option(
        "--workload", help="A profile (vqa, chat, document, multi-image) or images=1,resolution=672x672,..."
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device", help="auto (a GPU that holds the weights, else the CPU), cpu, cuda, cuda:1, ... or mps."
    ),
]
PolicyFile = Annotated[Path, typer.Option("--policy", help="A policy document.")]
StudyName = Annotated[str | None, typer.Argument(help="Study name; default: the only, or the latest, study.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable images out and count them.")]
PageFolder = Annotated[
    Path | None, typer.Option("--out", help="Write README.md and results.json into this folder.")
]
OtherLimit = Annotated[
    float | None, typer.Option("--max-tflops", help="Another limit: answered from stored trials.")
]
OtherConvention = Annotated[
    str | None, typer.Option("--flops-convention", help="literature or exact; default: the study's.")
]
Best = Annotated[
    str,
    typer.Option("--best", help="How to choose: quality, knee, or cheapest (within noise of the best)."),
]


def print_json(data: Any) -> None:
    """Print one JSON document on stdout."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def say(text: str) -> None:
    """Print a message on stderr."""
    typer.echo(text, err=True)
