"""`bench testbed` and `bench search`: strategies of the search, compared without running a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autotc.cli.options import Json, Storage, print_json, say

BED = Path("studies/search-bench")

ModelAlias = Annotated[str, typer.Option("--model", help="An alias whose family has a proxy.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Of torch.")]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Searches of each strategy.")]
Bed = Annotated[Path, typer.Option("--bed", help="Folder of the test-bed.")]


def bench_testbed(
    model: ModelAlias = "qwen2.5-vl",
    policies: Annotated[
        int,
        typer.Option(
            "--policies",
            min=1,
            help="Drawn ones; published recipes come on top. More than are there are added.",
        ),
    ] = 2000,
    examples: Annotated[
        int, typer.Option("--examples", min=128, help="Of each policy, a multiple of 128.")
    ] = 512,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw.")] = 0,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, ...")] = "cpu",
    threads: Threads = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the policies and outcomes.")] = BED,
    as_json: Json = False,
) -> None:
    """Measure a fixed set of policies on the proxy, for `bench search`; an interrupted run goes on where it was.

    All policies run on 128 examples first, then on the next 128, so what is there can be used at any time.
    """
    from autotc.testbed import command

    found = command.build(model, policies, examples, seed, out, device, threads, say)
    if as_json:
        print_json(found)
    else:
        typer.echo(f"Test-bed {found['status']}\nFiles: {', '.join(found['files'])}")


def bench_attention(
    model: Annotated[
        str, typer.Option("--model", help="A model folder, or an alias whose weights are here.")
    ],
    examples: Annotated[
        int, typer.Option("--examples", min=1, help="Prompts; a strategy that uses them is charged so many.")
    ] = 16,
    data: Annotated[
        str | None, typer.Option("--data", help="Your JSONL (image, question); default: built-in scenes.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Record what visual tokens receive in each layer of a model, for `--strategy fitprune`.

    One forward an example, with all attention maps in memory at once. The proxies that ship have theirs; for other
    models the file is written beside the weights.
    """
    from autotc.tasks.jsonl import Jsonl
    from autotc.tasks.scenes import Scenes
    from autotc.testbed import attention

    task = Scenes() if data is None else Jsonl(Path(data))
    found, path = attention.measure(
        model, task, examples, lambda done, total: say(f"{done} of {total} examples")
    )
    count, layers, tokens = found.cross.shape
    if as_json:
        print_json(
            {"file": str(path), "examples": count, "layers": layers, "visual_tokens": found.tokens.tolist()}
        )
    else:
        typer.echo(f"{path}: {count} examples, {layers} layers, up to {tokens} visual tokens")


def bench_ablation(
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Searches of each step.")] = 5,
    evaluations: Annotated[
        int, typer.Option("--evaluations", min=1, help="Evaluations of an example a search.")
    ] = 7680,
    examples: Annotated[
        int, typer.Option("--examples", min=16, help="Held-out ones that each pick is run on.")
    ] = 512,
    model: ModelAlias = "qwen2.5-vl",
    bed: Bed = BED,
    threads: Threads = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write ablation.md, .png and .json there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what each freedom of a policy is worth: tuning, position, several depths, several methods, parameters.

    Each is searched on the test-bed with the same effort; what is picked at three budgets is run on the proxy, on
    examples that the search did not see, next to smaller images of the same cost.
    """
    from autotc.testbed import ablation_page, command

    found = command.ablation(bed, model, seeds, evaluations, examples, threads, say)
    if out is not None:
        command.write_ablation(found, out)
        say(f"wrote {out / 'ablation.md'}, {out / 'ablation.png'} and {out / 'ablation.json'}")
    if as_json:
        print_json(found)
    else:
        typer.echo(ablation_page.text(found), nl=False)


def bench_live(
    strategy: Annotated[
        list[str] | None, typer.Option("--strategy", help="May be given several times.")
    ] = None,
    seeds: Seeds = 3,
    model: ModelAlias = "qwen2.5-vl",
    max_tflops: Annotated[float, typer.Option("--max-tflops", help="Limit of the searches.")] = 800.0,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Of each search.")] = 60,
    examples: Annotated[
        int, typer.Option("--examples", min=16, help="Of a trial, and of the selection.")
    ] = 256,
    heldout: Annotated[int, typer.Option("--heldout-examples", min=16, help="Scored on.")] = 512,
    storage: Storage = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write live.md, live.png and live.json there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare strategies in real searches on the proxy, on examples that no search sees; minutes for each.

    Studies are kept in the database by name, so that an interrupted run goes on.
    """
    from autotc import live_bench
    from autotc.search.strategies import check_name

    names = list(dict.fromkeys(strategy or ("default", "tpe-even", "tpe")))
    for name in names:
        check_name(name)
    options = {
        "max_tflops": max_tflops,
        "trials": trials,
        "examples": examples,
        "selection_examples": examples,
        "heldout_examples": heldout,
        "evaluate_on": "proxy",
    }
    found = live_bench.bench_live(model, names, seeds, options, storage, say)
    if out is not None:
        live_bench.write(found, out)
        say(f"wrote {out / 'live.md'}, {out / 'live.png'} and {out / 'live.json'}")
    if as_json:
        print_json(found)
    else:
        typer.echo(live_bench.table(found), nl=False)


def bench_search(
    seeds: Seeds = 20,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            "--strategy",
            help="Only this one; may be given several times. gp runs only when named: it is slow.",
        ),
    ] = None,
    evaluations: Annotated[
        int | None,
        typer.Option(
            "--evaluations", min=1, help="Evaluations of an example a search; default: 100 full trials."
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 1,
    model: ModelAlias = "qwen2.5-vl",
    bed: Bed = BED,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write README.md, search.png and results.json there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare strategies of the search on a test-bed: the gap above published recipes that each closes.

    Runs no model. Every strategy gets the same number of evaluations of an example; figures are on examples that no
    strategy sees. The test-bed comes from: autotc bench testbed
    """
    from autotc.search.strategies import NAMES, check_name
    from autotc.testbed import command, page

    for name in strategy or ():
        check_name(name)
    names = list(dict.fromkeys(strategy)) if strategy else [n for n in NAMES if n not in command.SLOW]
    found = command.compare(command.loader(bed, model), names, seeds, evaluations, workers, say)
    if out is not None:
        command.write(found, out)
        say(f"wrote {out / 'README.md'}, {out / 'search.png'} and {out / 'results.json'}")
    if as_json:
        print_json(found)
    else:
        typer.echo(page.table(found), nl=False)
