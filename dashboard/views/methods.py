"""Methods: the zoo with filters, and the leaderboard."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard import methods, parts

SITES = ("input", "vision", "projector", "decoder")

st.title("Methods")
st.caption("Published ways to drop or merge visual tokens, any of which a search may use alone or combined.")
zoo = methods.zoo()
with st.container(horizontal=True, vertical_alignment="bottom"):
    word = st.text_input("Filter", placeholder="name or paper", key="word", live=True, width=240)
    sites = st.pills(
        "Site",
        SITES,
        selection_mode="multi",
        key="sites",
        help="Where tokens are reduced: a smaller image, inside the vision tower, between tower and language model, "
        "inside the language model.",
    )
    aware = st.segmented_control(
        "Reads the question",
        ["any", "yes", "no"],
        default="any",
        required=True,
        key="aware",
        help="What such a method keeps for one question may lack the answer to the next one about the same image.",
    )
    encoder = st.toggle("Without a text encoder", key="encoder")
    fidelity = st.pills(
        "Fidelity",
        sorted({m["fidelity"] for m in zoo}),
        selection_mode="multi",
        key="fidelity",
        help="Faithful: does what the paper and its code do. Adapted: departs where autotc show METHOD says so. "
        "Reconstruction: written from the paper alone.",
    )
kept = [
    m
    for m in zoo
    if word.lower() in f"{m['name']} {m['source']['title']}".lower()
    and (not sites or set(sites) & set(m["sites"]))
    and (aware == "any" or m["query_aware"] == (aware == "yes"))
    and not (encoder and methods.wants_encoder(m))
    and (not fidelity or m["fidelity"] in fidelity)
]
st.caption(f"{len(kept)} of {len(zoo)} methods")
st.dataframe(
    pd.DataFrame(
        [
            {
                "method": m["name"],
                "sites": ", ".join(m["sites"]),
                "reads the question": "yes" if m["query_aware"] else "no",
                "text encoder": "needed" if methods.wants_encoder(m) else "–",
                "fidelity": m["fidelity"],
                "recipes": len(m["presets"]),
                "paper": f"https://arxiv.org/abs/{m['source']['arxiv']}" if m["source"]["arxiv"] else None,
                "title": m["source"]["title"],
            }
            for m in kept
        ]
    ),
    hide_index=True,
    height=430,
    column_config={"paper": st.column_config.LinkColumn("paper", display_text=r"abs/(.*)$")},
)
st.subheader("Leaderboard")
boards = methods.boards()
if not boards:
    st.text("No leaderboard is at hand. Make one: autotc bench methods")
    st.stop()
board = boards[
    st.segmented_control("Measured on", list(boards), default=next(iter(boards)), required=True, key="board")
]
st.caption(
    f"Every recipe at equal exact cost; {parts.plain(board['model'])} costs, quality on {parts.plain(board['on'])}, "
    f"{board['examples']} held-out examples. ± is half of the 95 % interval; in brackets the paired gain over random "
    "tokens in points."
)
names = {m["name"] for m in kept}
st.dataframe(pd.DataFrame(methods.lines(board, names)), hide_index=True, height=560)
