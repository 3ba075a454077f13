"""Runs: who works on what, what failed and why."""

from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd
import streamlit as st

from autotc.environment import grouped
from dashboard import data, parts, words


@st.fragment(run_every=parts.LIVE_S)
def workers() -> None:
    """List the trials in hand."""
    now = datetime.now(UTC)
    lines = [
        {
            "worker": words.short(w.worker),
            "study": words.short(w.study),
            "trial": str(w.number) if w.number is not None else words.short(w.label or ""),
            "for": words.duration((now - w.taken).total_seconds()),
            "state": "working" if w.expires > now else "silent",
            "next sign of life due": f"in {words.duration((w.expires - now).total_seconds())}"
            if w.expires > now
            else f"{words.duration((now - w.expires).total_seconds())} ago",
        }
        for w in data.work()
    ]
    if lines:
        st.dataframe(pd.DataFrame(lines), hide_index=True)
    else:
        st.text("No worker holds a trial now.")


st.title("Runs")
st.subheader("Workers")
workers()
view = parts.choose_study()
counts = pd.Series([t.state for t in view.trials if t.role == "trial"], dtype=str).value_counts()
failures = [t for t in view.trials if t.state in ("failed", "infeasible")]
memory = sum("memory" in (t.reason or "").lower() for t in failures)
spent = sum(t.seconds or 0.0 for t in view.trials)
with st.container(horizontal=True):
    st.metric(
        "finished trials", f"{counts.get('complete', 0):,} of {view.row.spec.get('trials', '?')}", width=190
    )
    st.metric("running", f"{counts.get('running', 0):,}", width=150)
    st.metric("failed", f"{counts.get('failed', 0):,}", width=150)
    st.metric("over a limit", f"{counts.get('infeasible', 0):,}", width=150)
    st.metric("out of memory", f"{memory:,}", width=150)
    st.metric("time of evaluations", words.duration(spent), width=190)
st.subheader("What could not be measured, and why")
if failures:
    lines = [
        {
            "trial": str(t.number) if t.role == "trial" else words.short(t.label or ""),
            "state": "over a limit" if t.state == "infeasible" else t.state,
            "when (UTC)": (t.finished or t.created).strftime("%Y-%m-%d %H:%M:%S"),
            "reason": words.short(t.reason or "not said", 400),
            "policy": words.short(t.policy.describe()),
        }
        for t in failures[::-1]
    ]
    st.dataframe(pd.DataFrame(lines), hide_index=True, height="content" if len(lines) < 16 else 560)
else:
    st.text("None.")
st.subheader("Run with")
made = pd.DataFrame(
    grouped(t.environment for t in view.trials if t.finished), columns=["versions and machine", "trials"]
)
st.dataframe(
    made[["trials", "versions and machine"]],
    hide_index=True,
    column_config={"trials": st.column_config.NumberColumn("trials, references", width="small")},
)
