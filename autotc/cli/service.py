"""`submit`, `jobs`, `stop`, `worker`, `serve` and `token`: many searches, many machines, one database."""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from autotc.cli import searching
from autotc.cli.options import Device, Json, Storage, print_json, say
from autotc.errors import SpecError

WORKER_EXAMPLES = """**Examples**

`autotc worker --any --storage postgresql://USER@HOST/autotc` -- one on every GPU box; ends with Ctrl-C or SIGTERM

`CUDA_VISIBLE_DEVICES=1 autotc worker --any --device cuda` -- one process a GPU

`autotc worker --study qwen2.5-vl-1a2b3c4d` -- help with this one; ends with it
"""
SUBMIT_EXAMPLES = """**Examples**

`autotc submit studies/qwen2.5-vl/spec.toml`

`autotc submit --model qwen2.5-vl --max-tflops 800 --trials 200`, then `autotc jobs`
"""
SERVE_EXAMPLES = """**Examples**

`autotc token create me --scope read --scope submit`, then `autotc serve`

`curl -H "Authorization: Bearer $TOKEN" http://127.0.0.1:8642/v1/jobs`

`curl -H "Authorization: Bearer $TOKEN" --json '{"model": "qwen2.5-vl"}' http://127.0.0.1:8642/v1/jobs`
"""
NOT_QUEUED = ("profile", "as_json", "workers", "executor", "device", "storage")

DataRoot = Annotated[
    list[Path] | None,
    typer.Option(
        "--data-root", help="Searches that came over HTTP may name data files below it (repeatable)."
    ),
]
ModelRoot = Annotated[
    list[Path] | None,
    typer.Option("--model-root", help="The same for model folders; aliases are always allowed."),
]


def worker(
    study: Annotated[
        str | None, typer.Option("--study", help="Work on this study only, and end with it.")
    ] = None,
    any_: Annotated[bool, typer.Option("--any", help="Work on whatever is queued (default).")] = False,
    drain: Annotated[bool, typer.Option("--drain", help="End when nothing is queued or running.")] = False,
    device: Device = "auto",
    data_root: DataRoot = None,
    model_root: ModelRoot = None,
    grace: Annotated[
        float,
        typer.Option("--grace", help="Seconds the trial in hand has after SIGTERM before it is handed back."),
    ] = 20.0,
    wait: Annotated[
        float | None,
        typer.Option(
            "--wait",
            min=0.0,
            help="Seconds to wait for a database that is away; default: as long as it takes.",
        ),
    ] = None,
    storage: Storage = None,
) -> None:
    """Work on queued searches, with as many other workers as there are; what one leaves, another takes up.

    SIGTERM or Ctrl-C finishes the trial in hand or hands it back; a second one stops at once (exit code 130). While the
    database is away, also at the start, the worker waits; a wrong password or name ends it at the start.
    """
    from autotc import running
    from autotc.service.roots import Roots
    from autotc.service.stopping import Stopping
    from autotc.service.worker import Worker
    from autotc.store import Store

    if study is not None and any_:
        raise SpecError("--study and --any: give one of them")
    roots = Roots.of(model_root or (), data_root or ())
    store = Store(storage, check=False)
    with Stopping(grace) as stopping:
        Worker(store, running.prepare, stopping, study, drain, device, roots, wait_s=wait, say=_log).run()


def _log(text: str) -> None:
    say(f"{time.strftime('%H:%M:%S')} {text}")


def submit(spec_file: Path | None, storage: str | None, as_json: bool, **given: Any) -> None:
    """Queue a search, from a file or with the options of `autotc search`; any worker takes it up.

    Options beside a file win over what it says. `autotc worker` runs it, `autotc jobs` shows how far it is.
    """
    from autotc.search.spec import SearchSpec
    from autotc.service import queue
    from autotc.store import Store

    options = {{"reducer": "reducers", "constraint": "constraints"}.get(k, k): v for k, v in given.items()}
    # a flag that was not given says nothing
    options = {k: v for k, v in options.items() if v is not None and v is not False}
    spec = (
        SearchSpec.from_options(options) if spec_file is None else SearchSpec.from_toml(spec_file, **options)
    )
    store = Store(storage)
    job = queue.submit(store, _absolute(spec))
    if as_json:
        print_json(job.as_dict())
    else:
        say(f"job {job.id} is queued in {store.url_shown}. Run it: autotc worker --any; see it: autotc jobs")


def _absolute(spec: Any) -> Any:
    """Workers run in other folders."""
    places = {}
    if spec.data is not None:
        places["data"] = str(Path(spec.data).absolute())
    if (Path(spec.model) / "config.json").is_file():
        places["model"] = str(Path(spec.model).absolute())
    return spec.model_copy(update=places)


def _with_options_of_search() -> None:
    """Give `submit` the options of `search`, so that no command line has to be written twice."""
    own = inspect.signature(submit, eval_str=True).parameters
    searched = inspect.signature(searching.search, eval_str=True).parameters
    model = Annotated[str | None, typer.Option("--model", help="As for autotc search; or in the file.")]
    file = Annotated[Path | None, typer.Argument(help="A TOML file with the options of a search as keys.")]
    parameters = [
        own["spec_file"].replace(annotation=file, default=None),
        *(
            p.replace(annotation=model, default=None) if name == "model" else p
            for name, p in searched.items()
            if name not in NOT_QUEUED
        ),
        own["storage"].replace(annotation=Storage, default=None),
        own["as_json"].replace(annotation=Json, default=False),
    ]
    keyword = inspect.Parameter.KEYWORD_ONLY
    submit.__signature__ = inspect.Signature([p.replace(kind=keyword) for p in parameters])  # type: ignore[attr-defined]
    submit.__annotations__ = {p.name: p.annotation for p in parameters}


_with_options_of_search()


def jobs(
    every: Annotated[
        bool, typer.Option("--all", help="Ended ones too, not only the latest of them.")
    ] = False,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """List queued, running and ended searches, latest last."""
    from autotc.service.status import statuses
    from autotc.store import Store

    found = statuses(Store(storage), None if every else 20)
    if as_json:
        print_json([s.as_dict() for s in found])
        return
    from autotc.tables.console import console, grid

    if not found:
        console.print(
            "No search was submitted yet. Queue one: autotc submit --model qwen2.5-vl --max-tflops 800"
        )
        return
    left = ("state", "model", "study", "reason")
    table = grid("job", "state", "model", "trials", "in_hand", "study", "reason", left=left)
    for s in found:
        trials = f"{s.trials}/{s.total}"
        texts = (s.state, s.model, trials, str(s.in_hand), s.study or "-", s.reason or "")
        table.add_row(str(s.id), *map(escape, texts))
    console.print(table)


def stop(
    job: Annotated[int, typer.Argument(help="Number of the job; see: autotc jobs")],
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Stop a search: its workers finish what they have in hand; what was found stays."""
    from autotc.store import Store

    row = Store(storage).stop_job(job)
    if as_json:
        print_json(row.as_dict())
    elif row.state == "stopping":
        say(f"job {job} is stopping: a worker ends it when the trials in hand are done")
    else:
        say(f"job {job} is {row.state}")


def serve(
    host: Annotated[
        str, typer.Option("--host", help="Where to listen; elsewhere than here only with a token.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="TCP port.")] = 8642,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", help="A name under which clients reach it (repeatable)."),
    ] = None,
    data_root: DataRoot = None,
    model_root: ModelRoot = None,
    storage: Storage = None,
) -> None:
    """Serve the queue over HTTP: submit, list, stop, fronts, policies, events; every request needs a token.

    Needs: pip install 'autotc[service]'. The description of the interface is at /openapi.json. It speaks plain HTTP:
    beyond this machine put a proxy with TLS before it.
    """
    from autotc.service.roots import Roots
    from autotc.store import Store

    try:
        from autotc.service.serving import run
    except ModuleNotFoundError as error:
        raise SpecError(f"{error.name} is missing. Install it: pip install 'autotc[service]'") from error
    run(Store(storage), host, port, tuple(allowed_host or ()), Roots.of(model_root or (), data_root or ()))


def token_create(
    name: Annotated[str, typer.Argument(help="Whom it is for.")],
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="read (default) or submit (repeatable).")
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Make a token for `autotc serve`. It is shown once, and only its digest is stored."""
    from autotc.service import tokens
    from autotc.store import Store

    row, secret = tokens.create(Store(storage), name, scope or ["read"])
    if as_json:
        print_json({**row.as_dict(), "token": secret})
    else:
        say(f"token {row.name} ({', '.join(row.scopes)}); it is not shown again:")
        typer.echo(secret)


def token_list(storage: Storage = None, as_json: Json = False) -> None:
    """List tokens; their secrets are not stored."""
    from autotc.store import Store

    rows = Store(storage).tokens()
    if as_json:
        print_json([row.as_dict() for row in rows])
        return
    _print_tokens(rows)


def _print_tokens(rows: Sequence[Any]) -> None:
    from autotc.tables.console import console, grid

    if not rows:
        console.print("No token yet. Make one: autotc token create NAME --scope read --scope submit")
        return
    table = grid("token", "scopes", "created", "revoked", left=("token", "scopes", "created", "revoked"))
    for row in rows:
        revoked = "" if row.revoked is None else f"{row.revoked:%Y-%m-%d %H:%M}"
        table.add_row(escape(row.name), ", ".join(row.scopes), f"{row.created:%Y-%m-%d %H:%M}", revoked)
    console.print(table)


def token_revoke(name: Annotated[str, typer.Argument(help="Of the token.")], storage: Storage = None) -> None:
    """Make a token worthless, at once."""
    from autotc.store import Store

    Store(storage).revoke_token(name)
    say(f"token {name} is revoked")
