"""What it sees: images with the tokens that survive each stage, and the answers before and after."""

from __future__ import annotations

import shlex

import streamlit as st

from autotc import pictures
from autotc.pictures import Looked, Pictures
from dashboard import data, parts
from dashboard.data import StudyView

MARKS = {True: ":material/check_circle:", False: ":material/cancel:"}
LEGEND = (
    "Full colour with a frame: the token stays. Dimmed, with a line: it is merged into the token at the line’s other "
    "end. Grey: dropped."
)


def missing(view: StudyView, name: str) -> None:
    """Say how pictures of a policy are made."""
    st.info(f"There are no pictures of {parts.plain(parts.title(view, name))} yet.", icon=":material/image:")
    model = shlex.quote(data.short(str(view.row.spec.get("model") or "MODEL")))
    trial = view.members[name].trial
    which = f"--trial {trial} " if isinstance(trial, int) else "--best knee "
    st.text("Make them in a terminal:")
    st.code(
        f"autotc export {shlex.quote(data.short(view.row.name))} {which}-o policy.json\n"
        f"autotc eval --policy policy.json --model {model} --pictures 12",
        language="bash",
    )


def example(found: Pictures, looked: Looked, folder: str, wide: bool) -> None:
    """Show one example under one policy."""
    right = looked.right_after >= 0.5
    with st.container(horizontal=True, vertical_alignment="top", gap="small"):
        shown = [(looked.file, "the image")]
        for stage, seen in zip(found.stages, looked.stages, strict=True):
            merged = f", {seen.merged} merged" if seen.merged else ""
            shown.append((seen.file, f"{parts.plain(stage)}: {seen.kept} of {looked.tokens} tokens{merged}"))
        for file, caption in shown:
            st.image(f"{folder}/{file}", caption=caption, width=200 if wide else 160, alt=caption)
    was = "right" if looked.right_before >= 0.5 else "wrong"
    st.markdown(
        f"{MARKS[right]} **{parts.plain(looked.after)}** with this policy, {'right' if right else 'wrong'} "
        f"· **{parts.plain(looked.before)}** uncompressed, {was}"
    )


st.title("What it sees")
zero, one, two = st.columns([1, 1.4, 1.4])
with zero:
    view = parts.choose_study()
chosen = data.picked(view, view.limit)
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
        missing(view, n)
there = [(n, found) for n, found in columns if found is not None]
if not there:
    st.stop()
only = st.segmented_control(
    "Examples",
    ["all", "changed answer"],
    default="all",
    required=True,
    key="only",
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
                example(f, e, str(pictures.place(data.pictures_folder(), f.policy)), len(mine) == 1)
