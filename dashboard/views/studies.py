"""Studies: what was searched, how far it is, how good it got."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard import data, parts, words
from dashboard.data import Summary

STATES = {"finished": "done", "running": "running", "stopped": "stopped", "interrupted": "interrupted"}


def line(summary: Summary) -> dict[str, object]:
    """Return one study as a row of the table."""
    row, spec = summary.row, summary.row.spec
    limit, convention = spec.get("max_tflops"), spec.get("flops_convention") or "literature"
    return {
        "study": words.short(row.name),
        "model": words.short(str(row.model.get("id") or spec.get("model") or "")),
        "budget": f"{limit:,g} TFLOP ({convention})" if isinstance(limit, int | float) else "none",
        "trials": f"{summary.done} of {spec.get('trials', '?')}",
        "front": summary.front,
        "best quality": words.value(summary.best) if summary.best else "–",
        "measured on": words.short(row.evaluated_on),
        "state": STATES.get(row.state, words.short(row.state)),
        "started (UTC)": row.created.strftime("%Y-%m-%d %H:%M"),
    }


st.title("Studies")
found = data.summaries()
if not found:
    parts.no_study()
wanted = st.text_input(
    "Filter",
    placeholder="Filter by name, model, state …",
    label_visibility="collapsed",
    icon=":material/filter_list:",
    key="filter",
    live=True,
    width=420,
)
lines = [(s, line(s)) for s in found]
lines = [(s, cells) for s, cells in lines if wanted.lower() in " ".join(map(str, cells.values())).lower()]
table = st.dataframe(
    pd.DataFrame([cells for _, cells in lines]),
    hide_index=True,
    on_select="rerun",
    selection_mode="single-row",
    key="studies",
    height="content" if len(lines) < 16 else 560,
    column_config={"front": st.column_config.NumberColumn("front", help="Policies on the Pareto front")},
)
if not lines:
    st.text("No study fits the filter.")
st.caption(
    "Click the box at the left of a row to open its front. Best quality: of the front's best policy, ± is half of the "
    "95 % interval; it is measured on the model named beside it."
)
rows = table.selection.rows
if rows and rows[0] < len(lines):
    st.switch_page(parts.FRONT, query_params={"study": lines[rows[0]][0].row.name})
with st.expander("Start another search", icon=":material/terminal:"):
    st.code(parts.START, language="bash")
    st.caption(f"Database: {parts.plain(data.reader().url_shown)}")
