"""The model card of a proxy: README.md from metrics.json, train.log.jsonl and the configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autotc.tasks.scenes import GROUPS


def write_card(model: Path, out: Path) -> None:
    """Write ``out/README.md`` from ``metrics.json``, ``train.log.jsonl`` and ``history.md`` there.

    Only the first of the three must exist.
    """
    settings = json.loads((out / "metrics.json").read_text())["settings"]
    config = json.loads((model / "config.json").read_text())
    size = (model / "model.safetensors").stat().st_size
    log = out / "train.log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    parts = [_head(config, size), _accuracy(settings), _pruning(settings), _withdrawal(settings)]
    parts += [_sizes(settings), _training(lines)]
    if (out / "history.md").is_file():
        parts.append("### How these weights came about\n\n" + (out / "history.md").read_text())
    parts.append(_limits())
    (out / "README.md").write_text("\n".join(parts))


def _percent(figure: dict[str, Any], error: bool = True) -> str:
    text = f"{100 * figure['value']:.1f}"
    return f"{text} ± {100 * figure['stderr']:.1f}" if error else text


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _table(header: list[Any], rows: list[list[Any]]) -> str:
    return "\n".join([_row(*header), _row(*["---"] * len(header)), *(_row(*row) for row in rows)])


def _head(config: dict[str, Any], size: int) -> str:
    text, vision = config["text_config"], config["vision_config"]
    return f"""# qwen2_5_vl-tiny

A very small vision-language model of the class `Qwen2_5_VLForConditionalGeneration`, trained from
scratch on generated scenes (`autotc.tasks.scenes`). It exists so that policies for visual tokens
can be searched and tested in minutes, without weights from elsewhere; it knows nothing but these
scenes.

| | |
| --- | --- |
| decoder | {text["num_hidden_layers"]} layers, width {text["hidden_size"]}, \
{text["num_attention_heads"]} heads ({text["num_key_value_heads"]} key-value), \
feed-forward {text["intermediate_size"]} |
| tower | {vision["depth"]} blocks, width {vision["hidden_size"]}, {vision["num_heads"]} heads, \
full attention in blocks {vision["fullatt_block_indexes"]}, else windows of 4 x 4 tokens |
| image | 7-pixel patches, 2 x 2 merged: one visual token for 14 x 14 pixels; 168 x 168 gives 144 |
| vocabulary | {text["vocab_size"]} words |
| weights | {size / 1e6:.1f} MB, fp16 |
| digits in the images | UCI optical digits, CC BY 4.0 (`autotc/tasks/digits.LICENSE.txt`) |

The forward needs `mm_token_type_ids` (1 on image tokens); without them transformers silently uses
one-dimensional positions and accuracy falls.

Every figure below is accuracy in per cent on held-out scenes with unseen handwriting, one question
a scene, groups in rotation; ± is one standard error. An answer of several words counts when all of
them are right. Measured again with `python -m autotc.proxies.evaluate_card`.
"""


def _accuracy(settings: dict[str, Any]) -> str:
    names = {
        "full": "**all 144 tokens**",
        "withdraw@0": "blind: no visual token",
        "wrong image": "image of another scene",
        "majority": "most frequent answer of the group",
    }
    rows = []
    for name, label in names.items():
        groups = [f"{100 * settings[name]['groups'][g]:.0f}" for g in GROUPS]
        rows.append([label, _percent(settings[name]), *groups])
    n = settings["full"]["n"]
    table = _table(["", "all", *GROUPS], rows)
    return f"## Accuracy (n = {n}, {n // len(GROUPS)} a group)\n\n{table}\n"


def _pruning(settings: dict[str, Any]) -> str:
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

`vit_attention`: received in the tower's last full block. `fastv`: attention of the last prompt
token in layer k-1. `divprune`: max-min cosine distance. `norm`: of the merged embedding.
"""


def _withdrawal(settings: dict[str, Any]) -> str:
    names = [name for name in settings if name.startswith("withdraw@")]
    header = ["dropped from layer", *[name.split("@")[1] for name in names], "never"]
    rows = [["all", *(_percent(settings[name], error=False) for name in [*names, "full"])]]
    for group in GROUPS:
        cells = [f"{100 * settings[name]['groups'][group]:.0f}" for name in [*names, "full"]]
        rows.append([group, *cells])
    return f"## Withdrawal of all visual tokens\n\n{_table(header, rows)}\n"


def _sizes(settings: dict[str, Any]) -> str:
    rows = []
    for name in sorted((n for n in settings if n.startswith("size ")), key=lambda n: int(n[5:])):
        size = int(name[5:])
        rows.append([f"{size} px", (size // 14) ** 2, _percent(settings[name])])
    rows.insert(-1, ["168 px", 144, _percent(settings["full"])])
    larger = ["224 px, larger scenes (more objects)", 256, _percent(settings["canvas 224"])]
    table = _table(["input", "visual tokens", "accuracy"], [*rows, larger])
    return f"""## The same scenes at other sizes

Trained on 112, 140, 168 and 224 pixels and on 112 x 168; smaller sizes were never seen.

{table}
"""


def _training(lines: list[dict[str, Any]]) -> str:
    steps = [line for line in lines if "stage" in line]
    if not steps:
        return ""
    last = steps[-1]
    rows = []
    for line in lines:
        for key in ("accuracy_112", "accuracy_168"):
            if key in line:
                rows.append([line["step"], line["seconds"], key[9:], f"{100 * line[key]:.1f}"])
    table = _table(["step", "seconds", "pixels", "accuracy"], rows)
    return f"""## Training

`python -m autotc.proxies.train`: {lines[-1]["step"]:,} steps, about {last["images"]:,} images of
eight questions each, {lines[-1]["seconds"] / 60:.0f} minutes on two CPU cores, from random weights. First the
tower alone (naming what each token shows), then everything at 112 pixels, then all sizes; the
learning rate falls to 0. One image in ten lost visual tokens before the decoder (three in ten of
these all of them), and about one in fourteen lost all of them from a layer between 8 and 11 on, so
that few or no tokens is nothing unheard of. Accuracy below is on validation scenes other than those
above.

{table}
"""


def _limits() -> str:
    return """## What it can not tell

It is a stand-in for the *mechanics* of a large model: where tokens may go, what attention-based
and diversity-based rules see, how much depth a question needs. Which rule is best by how much on a
large model must be verified on that model. Scenes are sparse (a few objects on a plain ground),
which favours rules that avoid the ground more than photographs and documents do.
"""
