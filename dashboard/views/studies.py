"""Studies: what was searched, how far it is, how good it got."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from autotc.environment import described
from dashboard import data, parts, words
from dashboard.data import Summary

STATES = {"finished": "done", "running": "running", "stopped": "stopped", "interrupted": "interrupted"}


def line(summary: Summary) -> dict[str, object]:
    """Return one study as a row of the table."""
    row, spec = summary.row, summary.row.spec
    limit, convention = spec.get("max_tflops"), spec.get("flops_convention") or "literature"
    return {
        "study": words.short(row.name),
        "budget": f"{limit:,g} TFLOP ({words.COUNTS.get(str(convention), convention)})"
        if isinstance(limit, int | float)
        else "none",
        "best quality": words.value(summary.best) if summary.best else "–",
        "policies": summary.front,
        "trials": f"{summary.done} of {spec.get('trials', '?')}",
        "state": STATES.get(row.state, words.short(row.state)),
        "model": words.short(str(row.model.get("id") or spec.get("model") or "")),
        "measured on": words.short(row.evaluated_on),
        "started (UTC)": row.created.strftime("%Y-%m-%d %H:%M"),
        "run with": words.short("; ".join(map(described, row.environments)) or "not recorded", 200),
    }


st.title("Studies")
st.caption(
    "A study is one search: which visual tokens a model can do without, within a budget of TFLOP per 1,000 requests. "
    "Click one to see the policies it found."
)
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
    selection_mode="single-cell",
    key="studies",
    height="content" if len(lines) < 16 else 560,
    column_config={
        "budget": st.column_config.TextColumn(help="At most so much, per 1,000 requests"),
        "policies": st.column_config.NumberColumn(
            help="On the Pareto front: nothing else that was tried is both better and cheaper"
        ),
        "best quality": st.column_config.TextColumn(
            help="Of the front’s best policy, on the model it was measured on; ± is half of the 95 % interval"
        ),
    },
)
if not lines:
    st.text("No study fits the filter.")
cells = table.selection.cells
if cells and cells[0][0] < len(lines):
    st.switch_page(parts.FRONT, query_params={"study": lines[cells[0][0]][0].row.name})
st.caption(
    "Budget and costs are of the model, quality of the one it was measured on. ± is half of the 95 % interval."
)
with st.expander("Start another search", icon=":material/terminal:"):
    st.code(parts.START, language="bash")
    st.caption(f"Database: {parts.plain(data.reader().url_shown)}")
