"""What it sees: images with the tokens that survive each stage, and the answers before and after."""

from __future__ import annotations

import streamlit as st

from autotc import pictures
from dashboard import data, fronts, parts, sees_panels

LEGEND = (
    "Full colour with a frame: the token stays. Dimmed, with a line: it is merged into the token at the line’s other "
    "end. Grey: dropped."
)


st.title("What it sees")
zero, one, two = st.columns([1, 1.4, 1.4])
with zero:
    view = parts.choose_study()
chosen = fronts.picked(view, *parts.budget(view))
with one:
    name = parts.choose_policy(view, chosen)
if name is None:
    st.info("No trial of this study is finished yet.", icon=":material/hourglass_empty:")
    st.stop()
with two:
    others = [n for n in [*chosen.names, *(n for n, m in view.members.items() if m.reference)] if n != name]
    if st.session_state.get("beside") not in others:
        st.session_state.pop("beside", None)
    beside = st.selectbox(
        "Beside it",
        others,
        index=None,
        key="beside",
        persist_state="session",
        format_func=lambda n: f"{parts.title(view, n)} · {view.described[n]}",
        placeholder="another policy",
    )
columns = [(n, data.seen(view, n)) for n in (name, beside) if n is not None]
for n, found in columns:
    if found is None:
        sees_panels.missing(view, n)
there = [(n, found) for n, found in columns if found is not None]
if not there:
    st.stop()
changed = sum(e.before != e.after for e in there[0][1].examples)
only = st.segmented_control(
    "Examples",
    ["all", "changed answer"],
    default="all",
    required=True,
    key="only",
    format_func=lambda which: (
        f"all {len(there[0][1].examples)}" if which == "all" else f"{which} ({changed})"
    ),
    label_visibility="collapsed",
)
st.caption(f"{LEGEND} Ran on {parts.plain(there[0][1].on)}, {there[0][1].split} examples.")
for looked in sorted(there[0][1].examples, key=lambda e: e.before == e.after):
    mine = [(n, f, next((e for e in f.examples if e.id == looked.id), None)) for n, f in there]
    if only != "all" and not any(e and e.before != e.after for _, _, e in mine):
        continue
    with st.container(border=True):
        wanted = "" if looked.wanted is None else f" · answer: {parts.plain(looked.wanted)}"
        st.markdown(f"**{parts.plain(looked.question, 300)}**{wanted}")
        for n, f, e in mine:
            if e is not None:
                if len(mine) > 1:
                    st.caption(f"{parts.plain(parts.title(view, n))} · {parts.plain(view.described[n])}")
                sees_panels.example(
                    f, e, str(pictures.place(data.pictures_folder(), f.policy)), len(mine) == 1
                )
