"""Policy: what the selected policy does to tokens, cost and answers; what is beside it; how it is used."""

from __future__ import annotations

import shlex

import pandas as pd
import streamlit as st

from autotc import charts, figures
from autotc.export import Member
from dashboard import data, parts
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
            error = "" if mine.stderr is None else f"± {100 * data.WIDTH * mine.stderr:.1f} · "
            unit = f" {mine.unit}" if mine.unit == "GiB" else ""
            st.metric(
                label,
                data.brief(mine) + unit,
                delta=f"{error}{'' if theirs is None else f'full model {data.brief(theirs)}'}" or None,
                delta_color="off",
                delta_arrow="off",
                help=data.written(mine) + f", on {parts.plain(mine.on)}",
                width=172,
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
            data.short(c.group, 40),
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
    chosen = data.picked(view, None)
    lines = data.beside(view, chosen, name)
    if lines:
        st.dataframe(pd.DataFrame(lines), hide_index=True)
    else:
        st.caption("It has no neighbour on the front.")


def leave(view: StudyView, name: str) -> None:
    """Offer the document, its use, and the commands that check it."""
    policy = data.policy_document(view, name)
    parts.download(policy)
    st.code(USE, language="python", wrap_lines=True)
    st.caption("Measure it on more examples, then on your weights and data:")
    model = shlex.quote(data.short(str(view.row.spec.get("model") or view.row.model.get("id") or "MODEL")))
    st.code(
        f"autotc eval --policy policy.json --model {model} --examples 2048\n"
        "autotc verify policy.json --model FOLDER --data my.jsonl",
        language="bash",
        wrap_lines=True,
    )
    text = policy.json_text()
    with st.expander("JSON and provenance"):
        if len(text) > MOST_JSON:
            st.text(f"The document has {len(text):,} characters, too many for a page. Download it.")
        else:
            st.code(text, language="json", height=360)


st.title("Policy")
first, second = st.columns([1, 2])
with first:
    view = parts.choose_study()
with second:
    name = parts.choose_policy(view, data.picked(view, view.limit))
if name is None:
    st.info("No trial of this study is finished yet.", icon=":material/hourglass_empty:")
    st.stop()
m, full = view.members[name], view.uncompressed
headline(view, m)
st.divider()
left, right = st.columns([3, 2], gap="large")
with left:
    st.subheader("Tokens through the model")
    tokens = full.number("visual_tokens") if full else None
    depth = charts.tokens_by_depth(m.policy, tokens.value if tokens else 1.0, data.kept(view, name))
    parts.plot(figures.dressed(depth, 330, parts.dark()), "depth", "Visual tokens alive at each depth")
    st.subheader("Where the cost goes")
    bars = data.parts(view, name)
    if bars:
        figure = figures.dressed(charts.cost_parts(bars), 200, parts.dark())
        parts.plot(figure, "parts", "Cost by part of the model")
    st.subheader("Which questions suffer")
    answers(view, name)
with right:
    st.subheader("Take it")
    leave(view, name)
    st.page_link(
        parts.SEES, label="What it sees", icon=":material/visibility:", query_params=data.link(view, name)
    )
    st.subheader("Its neighbours")
    beside(view, name)
