"""What the page of a policy is put together from."""

from __future__ import annotations

import shlex

import pandas as pd
import streamlit as st

from autotc import charts, figures
from autotc.environment import described
from autotc.export import Member
from autotc.recommend import Recommendation
from dashboard import data, fronts, parts, words
from dashboard.data import StudyView

MOST_JSON = 20_000  # characters a page shows
USE = """import autotc

policy = autotc.load_policy("policy.json")
with autotc.compress(model, policy):
    output = model.generate(**inputs, max_new_tokens=32)"""


def headline(view: StudyView, m: Member) -> None:
    """Show the figures that decide, each beside the uncompressed model's."""
    full = view.uncompressed
    with st.container(horizontal=True):
        for label, figure in (
            ("quality", "quality"),
            ("worst group", "worst_group"),
            ("TFLOP exact", "tflops_exact"),
            ("TFLOP papers’ count", "tflops_literature"),
            ("visual tokens", "visual_tokens"),
            ("peak memory", "memory_gib"),
        ):
            mine = m.number(figure)
            if mine is None:
                continue
            theirs = full.number(figure, mine.split) if full else None
            error = "" if mine.stderr is None else f"± {100 * words.WIDTH * mine.stderr:.1f} · "
            unit = f" {mine.unit}" if mine.unit == "GiB" else ""
            st.metric(
                label,
                words.brief(mine) + unit,
                delta=f"{error}{'' if theirs is None else f'full {words.brief(theirs)}'}" or None,
                delta_color="off",
                delta_arrow="off",
                help=words.written(mine) + f", on {parts.plain(mine.on)}",
                width=160,
            )
    st.caption(
        f"Quality is measured on {parts.plain(view.row.evaluated_on)}; ± is half of the 95 % interval; worst group: "
        f"the question type with the lowest. TFLOP per 1,000 requests and peak memory are estimated for "
        f"{parts.plain(view.row.model.get('id', 'the full model'))}; visual tokens: in its mean layer. Full: "
        "the model without a policy."
    )


def answers(view: StudyView, name: str) -> None:
    """Show quality by question type with what flips."""
    found = data.group_changes(view, name)
    if found is None:
        st.caption("Outcomes of single examples are not stored for this policy.")
        return
    rows, split = found
    shown = [
        charts.Group(
            words.short(c.group, 40),
            c.n,
            c.quality,
            c.uncompressed,
            None if c.drop.high is None else -c.drop.high,
            None if c.drop.low is None else -c.drop.low,
            c.flips.right_to_wrong,
            c.flips.wrong_to_right,
        )
        for c in rows
    ]
    figure = figures.dressed(charts.group_quality(shown), 130 + 44 * len(shown), parts.dark())
    parts.plot(figure, "groups", "Quality by question type")
    st.caption(
        f"{split} examples; bars are 95 % intervals of the paired change; lost: right before and wrong now."
    )


def beside(view: StudyView, name: str) -> None:
    """Compare with the neighbours on the front."""
    chosen = fronts.picked(view, None)
    lines = fronts.beside(view, chosen, name)
    if lines:
        st.dataframe(pd.DataFrame(lines), hide_index=True)
    else:
        st.caption("It has no neighbour on the front.")


def origin(view: StudyView, name: str) -> None:
    """Say where the figures come from: which trial, when, run by what."""
    row = view.rows[name]
    when = "" if row.finished is None else f"{row.finished:%Y-%m-%d %H:%M} UTC"
    took = f", in {words.duration(row.seconds)}" if row.seconds else ""
    lines = {
        "study": view.row.name,
        "trial": parts.title(view, name),
        "measured": when + took,
        **({"note": row.reason} if row.reason else {}),
        "quality measured on": view.row.evaluated_on,
        "costs estimated for": str(view.row.model.get("id") or "not recorded"),
        "run with": described(row.environment),
        "policy id": view.members[name].policy.id[:16],
    }
    st.dataframe(
        pd.DataFrame([{"what": k, "value": words.short(v, 300)} for k, v in lines.items()]),
        hide_index=True,
        column_config={"what": st.column_config.TextColumn(width="small")},
    )


def leave(view: StudyView, name: str, why: Recommendation) -> None:
    """Offer the document, its use, and the commands that check it."""
    policy = data.policy_document(view, name, why)
    parts.download(policy)
    st.code(USE, language="python", wrap_lines=True)
    st.caption("Measure it on more examples, then on your weights and data:")
    model = shlex.quote(words.short(str(view.row.spec.get("model") or view.row.model.get("id") or "MODEL")))
    st.code(
        f"autotc eval --policy policy.json --model {model} --examples 2048\n"
        "autotc verify policy.json --model FOLDER --data my.jsonl",
        language="bash",
        wrap_lines=True,
    )
    text = policy.json_text()
    with st.expander("JSON"):
        if len(text) > MOST_JSON:
            st.text(f"The document has {len(text):,} characters, too many for a page. Download it.")
        else:
            st.code(text, language="json", height=360)
