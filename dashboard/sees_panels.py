"""What the page of pictures is put together from."""

from __future__ import annotations

import streamlit as st

from autotc.pictures import Looked, Pictures, command
from dashboard import parts, words
from dashboard.data import StudyView

MARKS = {True: ":material/check_circle:", False: ":material/cancel:"}


def missing(view: StudyView, name: str) -> None:
    """Say how pictures of a policy are made."""
    st.info(f"There are no pictures of {parts.plain(parts.title(view, name))} yet.", icon=":material/image:")
    trial = view.members[name].trial
    one = trial if isinstance(trial, int) else None
    st.text("Make them in a terminal; this page finds them then:")
    st.code(command(words.short(view.row.name), view.row.evaluated_on, one), language="bash", wrap_lines=True)


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
