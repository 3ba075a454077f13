"""Front: the policies of a study on two axes; a budget, a click, and the policy to take."""

from __future__ import annotations

import streamlit as st

from autotc import charts, figures
from autotc.history import history
from dashboard import data, front_panels, fronts, parts
from dashboard.data import Axis, StudyView


@st.fragment
def page(view: StudyView, counts: str, other: str | None, x: Axis, y: Axis) -> None:
    """Everything that a click or the slider changes."""
    left, right = st.columns(2, gap="medium")
    with left:
        limit = front_panels.slide(view, counts)
    chosen = fronts.picked(view, limit, counts)
    if not chosen.names:
        st.info("No finished trial is within this budget yet.", icon=":material/hourglass_empty:")
        return
    front_panels.take_click(view, chosen)
    with right:
        name = parts.choose_policy(view, chosen)
    if name is not None:
        front_panels.card(view, chosen, name, limit, counts)
    marks = fronts.marks(view, x, y, limit, counts, chosen)
    if other:
        theirs = data.study(other)
        marks += fronts.marks(theirs, x, y, None, counts, fronts.picked(theirs, None), other=True)
    figure = figures.front(
        marks,
        fronts.axis_title(x),
        fronts.axis_title(y),
        limit=limit if x.name == f"tflops_{counts}" else None,
        chosen=name,
        percent=y.share,
        stairs=fronts.joined(marks),
        dark=parts.dark(),
    )
    parts.plot(
        figure,
        front_panels.CHART,
        "Quality against cost",
        tools=True,
        on_select="rerun",
        selection_mode="points",
    )
    if name is not None and (why := fronts.why(view, chosen, name)).recommended:
        parts.verdict(why)
    st.caption(
        "Click a point or a line of the table to select its policy. Quality is measured on "
        f"{parts.plain(view.row.evaluated_on)}, {chosen.split} split (trials not confirmed there: search split, where "
        "winners look too good); costs "
        f"are estimated for {parts.plain(view.row.model.get('id', 'the full model'))}. Front: nothing else is both "
        "better and cheaper by the exact count."
    )
    front_panels.table(view, chosen)


st.title("Front")
view, counts, other, x, y = front_panels.controls()
page(view, counts, other, x, y)
with st.expander("How the search went", icon=":material/trending_up:"):
    covered = history(list(view.members.values()), view.objectives)
    if covered is None:
        st.caption("No trial has been measured yet.")
    else:
        figure = figures.dressed(charts.hypervolume_history(covered.share), 240, parts.dark())
        parts.plot(figure, "history", "Hypervolume after each trial")
        st.caption(f"Share that is covered of the {covered.text}. Still rising: more trials may find more.")
