"""One reducer, or one trial, as a page: `show`."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.padding import Padding

from autotc.tables.console import console, figure, grid
from autotc.tables.lists import plain, print_listing

FEW = 6  # stages of a preset that are written one by one
RELEVANCE = {"clip": "CLIP's text encoder", "embedding": "word embeddings"}
LONG = 40  # letters of a stage that has a line of its own


def print_reducer(facts: dict[str, Any]) -> None:
    """Print what `facts.reducer_facts` knows, section by section."""
    console.print(f"[bold]{facts['name']}[/]  {escape(facts['title'])}")
    _say(facts["does"])
    source = facts["source"]
    _section("Source", source["title"] + (f", arXiv {source['arxiv']}" if source["arxiv"] else ""))
    _section("Kind", ", ".join(_kind(facts)))
    _head("Looks at")
    _print_signals(facts["signals"])
    _head("Parameters")
    _print_parameters(facts["parameters"])
    at = facts["cost"]["at"]
    own = (
        f"{figure(facts['cost']['flops'] / 1e9)} GFLOP" if facts["cost"]["flops"] else "none that is counted"
    )
    shape = f"{at['n']} tokens to {at['k']}, width {at['d']}, {at['heads']} heads, {at['text']} text tokens"
    _section("Cost", _sentence(facts["cost"]["text"]))
    _say(f"Own work on one image ({shape}): {own}.")
    _section("Differs from the original", _sentence(facts["differs"]))
    _head(f"Presets (of {at['n']} tokens, as published)")
    for preset in facts["presets"]:
        _say(f"{preset['name']}: {preset['note']} (positions {preset['positions']})")
        _say(_recipe(preset["stages"]), 4)
    if not facts["presets"]:
        _say("none")
    _head("Where it may stand")
    places: dict[str, list[str]] = {}
    for family in facts["families"]:
        places.setdefault(_place(family), []).append(family["family"])
    for place, families in places.items():
        _say(f"{', '.join(families)}: {place}")


def print_trial(facts: dict[str, Any]) -> None:
    """Print facts as 'name  value' lines, rows as tables."""
    for name, value in facts.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            console.print(f"[dim]{name}[/]")
            print_listing(name, [{k: v for k, v in item.items() if k in value[0]} for item in value])
        else:
            console.print(f"[dim]{name.replace('_', ' '):14}[/] {escape(plain(name, value))}")


def _head(title: str) -> None:
    console.print(f"\n[dim]{title}[/]")


def _say(text: str, indent: int = 2) -> None:
    console.print(Padding(escape(text), (0, 0, 0, indent), expand=False))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _section(title: str, text: str) -> None:
    _head(title)
    _say(text)


def _kind(facts: dict[str, Any]) -> list[str]:
    words = [facts["fidelity"], "query-aware" if facts["query_aware"] else "query-agnostic"]
    if facts["adaptive"]:
        words.append("chooses its own count, the budget is its cap")
    if facts["stateful"]:
        words.append("observes the layers between its stages")
    if facts["size_bias"]:
        words.append("later blocks weigh merged tokens by their size")
    if facts["relevance"] != "none":
        words.append(f"relevance to the question by {RELEVANCE[facts['relevance']]}")
    return words


def _print_signals(signals: dict[str, str]) -> None:
    if not signals:
        _say("the tokens themselves, no signal of the model")
        return
    table = grid("signal", "what it is", left=("signal", "what it is"))
    table.show_header = False
    for name, meaning in signals.items():
        table.add_row(name, escape(meaning))
    console.print(Padding(table, (0, 0, 0, 2)))


def _print_parameters(parameters: list[dict[str, Any]]) -> None:
    if not parameters:
        _say("none")
        return
    names = ("name", "default", "range", "searched", "meaning")
    table = grid(*names, left=names)
    for p in parameters:
        table.add_row(p["name"], str(p["default"]), _range(p), plain("", p["search"]), escape(p["help"]))
    console.print(Padding(table, (0, 0, 0, 2)))


def _range(parameter: dict[str, Any]) -> str:
    if isinstance(parameter["default"], bool):
        return "True | False"
    if "choices" in parameter:
        return " | ".join(map(str, parameter["choices"]))
    limits = f"{parameter.get('low', '')} .. {parameter.get('high', '')}".strip()
    return f"{limits}, log" if parameter["log"] else limits


def _recipe(stages: list[dict[str, Any]]) -> str:
    """Write the published counts, e.g. 'decoder 8/32 → 288 · decoder 16/32 → 144'."""
    shown = stages if len(stages) <= FEW else [stages[0], stages[-1]]
    words = [_stage(stage) for stage in shown]
    if len(shown) < len(stages):
        words.insert(1, f"{len(stages) - 2} stages between")
    apart = "\n" if any(len(word) > LONG for word in words) else " · "
    return apart.join(words)


def _stage(stage: dict[str, Any]) -> str:
    depth = f" {stage['layer']}/{stage['of']}" if stage["layer"] is not None else ""
    by = f" {stage['reducer']}" if stage["reducer"] else ""
    params = ", ".join(f"{name} {value}" for name, value in stage["params"].items())
    return f"{stage['site']}{depth}{by} → {stage['tokens']}{f' ({params})' if params else ''}"


def _place(family: dict[str, Any]) -> str:
    if not family["sites"]:
        why = [f"{site}: {reason}" for site, reason in family["refused"].items()]
        lacks = [f"it has no {', '.join(family['missing'])}"] if family["missing"] else []
        return f"nowhere ({'; '.join(why + lacks)})"
    other: dict[str, list[str]] = {}
    for need, substitute in family["instead"].items():
        other.setdefault(substitute, []).append(need)
    instead = [f"{substitute} in place of {' and '.join(needs)}" for substitute, needs in other.items()]
    return ", ".join(family["sites"]) + (f" (with {'; '.join(instead)})" if instead else "")
