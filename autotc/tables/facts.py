"""Everything there is to say of one reducer, or of one trial, as plain data: `show`."""

from __future__ import annotations

import inspect
import re
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from autotc.errors import SpecError
from autotc.export import members
from autotc.policy import budget
from autotc.reducer import SIGNALS, Preset, Reducer, Shape, reducers, resolve_needs
from autotc.registry import nearest
from autotc.tables.lists import reducer_row

if TYPE_CHECKING:
    from autotc.adapter import ModelAdapter

# the model and the picture of most papers' tables: LLaVA-1.5-7B, 576 visual tokens, 192 of them kept
PUBLISHED = "llava-1.5-7b"
TOKENS = 576
SHAPE = Shape(n=TOKENS, k=192, d=4096, heads=32, head_dim=128, text=64, kv_heads=32)


def reducer_facts(name: str) -> dict[str, Any]:
    """Return what a reducer does, needs, costs and leaves out, its recipes, and where it may stand.

    Raises:
        SpecError: unknown reducer, with the nearest names.
    """
    from autotc.adapter import adapters

    cls = reducers.get(name)
    text = inspect.cleandoc(cls.__doc__ or "")
    said = sections(text)
    return {
        **reducer_row(cls),
        "title": cls.title,
        "text": text,
        "does": said["does"],
        "signals": {need: SIGNALS[need] for need in cls.needs},
        "adaptive": cls.adaptive,
        "stateful": cls.stateful,
        "size_bias": cls.size_bias,
        "relevance": cls.relevance,
        "parameters": _parameters(cls),
        "cost": {"text": said["Cost"], "flops": cls().flops(SHAPE), "at": asdict(SHAPE)},
        "differs": said["Differs"],
        "presets": [_recipe(p) for p in cls.presets],
        "families": [place(cls, family) for family in adapters.all()],
    }


def sections(text: str) -> dict[str, str]:
    """Split a reducer's docstring: what it `does`, then its paragraphs `Source`, `Differs` and `Cost`."""
    parts = re.split(r"^(Source|Differs|Cost):", text, flags=re.M)
    named = dict(zip(parts[1::2], parts[2::2], strict=True))
    found = {name: " ".join(named.get(name, "").split()) for name in ("Source", "Differs", "Cost")}
    paragraphs = (" ".join(lines.split()) for lines in parts[0].strip().split("\n\n"))
    return {"does": "\n\n".join(paragraphs), **found}


def place(cls: type[Reducer], family: type[ModelAdapter]) -> dict[str, Any]:
    """Return where a reducer may stand in a model family, what replaces a missing signal, and what stands against it.

    A text encoder counts as missing: it comes with a processor, not with a family.
    """
    from autotc.adapter import OF_TEXT_ENCODER

    available = set(SIGNALS) - set(family.signals_absent) - set(OF_TEXT_ENCODER)
    missing = resolve_needs(cls, available)[1]
    refused = {s: family.refusals.get(s, "not supported") for s in cls.sites if s not in family.sites}
    if cls.size_bias:
        refused |= {
            s: "sizes weigh only inside the tower" for s in cls.sites if s not in ("vision", *refused)
        }
    return {
        "family": family.name,
        "models": list(family.aliases),
        "sites": [] if missing else [s for s in cls.sites if s not in refused],
        "instead": {n: cls.instead[n] for n in cls.needs if n not in available and n not in missing},
        "missing": list(missing),
        "refused": refused,
    }


def _parameters(cls: type[Reducer]) -> list[dict[str, Any]]:
    return [
        {"name": f.name, "default": f.default, **{k: v for k, v in f.metadata.items() if v is not None}}
        for f in fields(cls)
    ]


def _recipe(preset: Preset) -> dict[str, Any]:
    """Return a preset with its published counts."""
    from autotc.adapter import anatomy

    stages = [
        {
            "site": stage.site,
            "layer": stage.layer and stage.layer[0],
            "of": stage.layer and stage.layer[1],
            "reducer": stage.reducer,
            "keep": stage.keep,
            "tokens": budget(TOKENS, stage.keep),
            "params": dict(stage.params),
        }
        for stage in preset.stages(anatomy(PUBLISHED))
    ]
    return {"name": preset.name, "note": preset.note, "positions": preset.positions, "stages": stages}


def trial_facts(number: str, study: str, storage: str | None) -> dict[str, Any]:
    """Return one trial of a study: policy, figures, what was asked and kept.

    Raises:
        SpecError: no such study or trial.
    """
    from autotc.store import Store

    found = {str(m.trial): m for m in members(Store(storage), study)}
    if number not in found:
        raise SpecError(f"{study}: no finished trial {number!r}. {nearest(number, found)}")
    return found[number].as_dict()
