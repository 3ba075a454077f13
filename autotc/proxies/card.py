"""The model card of a proxy: README.md from metrics.json, train.log.jsonl and the configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autotc.calibration import verdict
from autotc.proxies import card_words
from autotc.tasks.scenes import GROUPS


def write_card(model: Path, out: Path) -> None:
    """Write ``out/README.md`` from ``metrics.json``, ``train.log.jsonl`` and ``history.md`` there.

    Only the first of the three must exist.
    """
    metrics = json.loads((out / "metrics.json").read_text())
    settings = metrics["settings"]
    config = json.loads((model / "config.json").read_text())
    log = out / "train.log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    words = card_words.QWEN if config["model_type"] == "qwen2_5_vl" else card_words.LLAVA
    parts = [_head(config, model, words), _accuracy(settings), _pruning(settings, words)]
    parts += [_withdrawal(settings)]
    if "clip" in metrics:
        parts.append(_clip(metrics["clip"]))
    parts += [_sizes(settings, words), _training(lines, words)]
    if (out / "history.md").is_file():
        parts.append("### How these weights came about\n\n" + (out / "history.md").read_text())
    parts.append(card_words.LIMITS)
    (out / "README.md").write_text("\n".join(parts))


def _percent(figure: dict[str, Any], error: bool = True) -> str:
    text = f"{100 * figure['value']:.1f}"
    return f"{text} ± {100 * figure['stderr']:.1f}" if error else text


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _table(header: list[Any], rows: list[list[Any]]) -> str:
    return "\n".join([_row(*header), _row(*["---"] * len(header)), *(_row(*row) for row in rows)])


def _head(config: dict[str, Any], model: Path, words: card_words.Words) -> str:
    text = config["text_config"]
    size = sum(path.stat().st_size for path in model.rglob("*.safetensors"))
    decoder = (
        f"{text['num_hidden_layers']} layers, width {text['hidden_size']}, {text['num_attention_heads']} heads "
        f"({text['num_key_value_heads']} key-value), feed-forward {text['intermediate_size']}"
    )
    vision = config["vision_config"]
    table = _table(
        ["", ""],
        [
            ["decoder", decoder],
            ["tower", words.tower.format(**vision)],
            *map(list, words.parts),
            ["vocabulary", f"{text['vocab_size']} words"],
            ["weights", f"{size / 1e6:.1f} MB, fp16"],
            ["digits in the images", "UCI optical digits, CC BY 4.0 (`autotc/tasks/digits.LICENSE.txt`)"],
        ],
    )
    judged = verdict(f"proxy:{words.name}")
    assert judged is not None  # a proxy always has one
    return f"""# {words.name}

A very small vision-language model of the class `{config["architectures"][0]}`, trained from
scratch on generated scenes (`autotc.tasks.scenes`). It exists so that policies for visual tokens
can be searched and tested in minutes, without weights from elsewhere; it knows nothing but these
scenes.

{judged.text} See `studies/calibration`.

{table}

{words.note}
Every figure below is accuracy in per cent on held-out scenes with unseen handwriting, one question
a scene, groups in rotation; ± is one standard error. An answer of several words counts when all of
them are right. Measured again with `python -m autotc.proxies.evaluate_card {words.name}`.
"""


def _accuracy(settings: dict[str, Any]) -> str:
    names = {
        "full": "**all 144 tokens**",
        "withdraw@0": "blind: no visual token",
        "wrong image": "image of another scene",
        "majority": "most frequent answer of the group",
        "fuller": "6 to 9 objects, as in the built-in task",
    }
    rows = []
    for name, label in names.items():
        if name not in settings:
            continue
        groups = [f"{100 * settings[name]['groups'][g]:.0f}" for g in GROUPS]
        rows.append([label, _percent(settings[name]), *groups])
    n = settings["full"]["n"]
    table = _table(["", "all", *GROUPS], rows)
    return f"## Accuracy (n = {n}, {n // len(GROUPS)} a group)\n\n{table}\n"


def _pruning(settings: dict[str, Any], words: card_words.Words) -> str:
    names = dict.fromkeys(name.split()[0] for name in settings if "@" in name and "withdraw" not in name)
    counts = [int(name.split()[1]) for name in settings if name.startswith("random@0 ")]
    rows = []
    for name in names:
        cells = [_percent(settings[f"{name} {count}"], error=False) for count in counts]
        rows.append([f"{name}", _percent(settings["full"], error=False), *cells])
    header = ["tokens kept", "144 (1)", *[f"{c} ({c / 144:.2f})" for c in counts]]
    return f"""## Trade-off

`rule@k`: dropped from decoder layer k on (0: before the language model); positions kept.

{_table(header, rows)}

{words.rules} `fastv`: attention of the last prompt
token in layer k-1. `divprune`: max-min cosine distance. `norm`: of the projected token.
"""


def _withdrawal(settings: dict[str, Any]) -> str:
    names = [name for name in settings if name.startswith("withdraw@")]
    header = ["dropped from layer", *[name.split("@")[1] for name in names], "never"]
    rows = [["all", *(_percent(settings[name], error=False) for name in [*names, "full"])]]
    for group in GROUPS:
        cells = [f"{100 * settings[name]['groups'][group]:.0f}" for name in [*names, "full"]]
        rows.append([group, *cells])
    return f"## Withdrawal of all visual tokens\n\n{_table(header, rows)}\n"


def _sizes(settings: dict[str, Any], words: card_words.Words) -> str:
    rows = []
    for name in sorted((n for n in settings if n.startswith("size ")), key=lambda n: int(n[5:])):
        size = int(name[5:])
        rows.append([f"{size} px", (size // 14) ** 2, _percent(settings[name])])
    rows.insert(-1, ["168 px", 144, _percent(settings["full"])])
    larger = ["224 px, larger scenes (more objects)", 256, _percent(settings["canvas 224"])]
    table = _table(["input", "visual tokens", "accuracy"], [*rows, larger])
    return f"""## The same scenes at other sizes

{words.sizes}

{table}
"""


def _clip(seen: dict[str, float]) -> str:
    shown = {name: f"{100 * value:.0f} %" for name, value in seen.items()}
    shown["most"] = f"{100 * min(1.0, seen['on_things'] * 144 / 36):.0f} %"
    return f"""## CLIP

{card_words.CLIP.format(**shown)}"""


def _training(lines: list[dict[str, Any]], words: card_words.Words) -> str:
    steps = [line for line in lines if "stage" in line]
    if not steps:
        return ""
    rows = []
    for line in lines:
        for key in ("accuracy_112", "accuracy_168"):
            if key in line:
                rows.append([line["step"], line["seconds"], key[9:], f"{100 * line[key]:.1f}"])
    table = _table(["step", "seconds", "pixels", "accuracy"], rows)
    minutes = lines[-1]["seconds"] / 60
    return f"""## Training

`python -m autotc.proxies.train {words.name}`: {lines[-1]["step"]:,} steps, about {steps[-1]["images"]:,} images
{words.images}, {minutes:.0f} minutes on two CPU cores, from random weights. {words.training}

{table}
"""
