"""Front: the policies of a study on two axes; a budget, a click, and the policy to take."""

from __future__ import annotations

import math

import pandas as pd
import streamlit as st

from autotc import charts, figures
from dashboard import data, parts
from dashboard.data import Axis, Picked, StudyView

CHART, TABLE = "front", "members"


def controls() -> tuple[StudyView, str, str | None, Axis, Axis]:
    """Let the visitor choose the study, how cost counts, another study beside it, and two stored figures."""
    one, two, three, four = st.columns([3, 2.2, 2.4, 1], vertical_alignment="bottom")
    with one:
        view = parts.choose_study()
    with two:
        counts = st.segmented_control(
            "Cost",
            ["literature", "exact"],
            default=view.convention,
            required=True,
            key="counts",
            format_func={"literature": "papers’ count", "exact": "exact"}.get,
            on_change=lambda: st.session_state.pop("trial", None),
            help="The papers’ count is the decoder’s prefill over visual tokens; exact is all that is executed.",
        )
    with three:
        others = [n for n in data.versions() if n != view.row.name]
        other = st.selectbox(
            "Compare with",
            others,
            index=None,
            key="other",
            format_func=data.short,
            placeholder="another study" if others else "there is no other",
        )
    unit = next((a.unit for a in view.axes if a.name == "quality"), "accuracy")
    x0 = Axis(f"tflops_{counts}", None, "estimated", "TFLOP/1000 requests")
    y0 = Axis("quality", None, "measured", unit)
    with four, st.popover("Axes", icon=":material/tune:"):
        x = st.selectbox("Across", list(dict.fromkeys([x0, *view.axes])), key="x", format_func=str)
        y = st.selectbox("Up", list(dict.fromkeys([y0, *view.axes])), key="y", format_func=str)
        st.caption(
            "Estimated figures are computed for the full model, measured ones come from running a model."
        )
    return view, counts, other, x, y


def slide(view: StudyView, counts: str) -> float | None:
    """Let the visitor move the budget."""
    costs = [c for m in view.members.values() if not m.reference and (c := data.cost(m, counts)) < math.inf]
    if not costs:
        return None
    low, high = math.ceil(min(costs)), math.ceil(max([*costs, view.limit or 0]))
    top = max(high, low + 1)
    start = min(max(view.limit or top, low), top) if counts == view.convention else top
    if not low <= st.session_state.get("budget", low) <= top:
        del st.session_state.budget  # of another study
    return st.slider(
        f"Budget, TFLOP per 1,000 requests ({'papers’ count' if counts == 'literature' else 'exact'})",
        low,
        top,
        int(start),
        key="budget",
        bind="query-params",
        on_change=lambda: st.session_state.pop("trial", None),
    )


def take_click(view: StudyView, chosen: Picked) -> None:
    """Select the policy whose point or row was clicked since the page was last drawn."""
    points = st.session_state.get(CHART, {}).get("selection", {}).get("points", [])
    rows = st.session_state.get(TABLE, {}).get("selection", {}).get("rows", [])
    now = (points[0].get("customdata", [None])[0] if points else None, rows[0] if rows else None)
    before = st.session_state.get("clicked", (None, None))
    st.session_state.clicked = now
    if now[0] != before[0] and now[0] in view.members:
        st.session_state.trial = now[0]
    elif now[1] is not None and now[1] != before[1] and now[1] < len(chosen.names):
        st.session_state.trial = chosen.names[now[1]]


def table(view: StudyView, chosen: Picked) -> None:
    """List the front; choosing a row selects the policy."""
    lines = []
    for name in chosen.names:
        m = view.members[name]
        cells = {"trial": name, "stands out": chosen.tag(name)}
        for title, figure, split in (
            (f"quality ({chosen.split})", "quality", chosen.split),
            ("quality (held-out)", "quality", "held-out"),
            ("TFLOP exact", "tflops_exact", None),
            ("TFLOP papers’ count", "tflops_literature", None),
            ("tokens", "visual_tokens", None),
        ):
            found = m.number(figure, split)
            cells[title] = "–" if found is None else data.value(found).removesuffix(f" {found.unit}")
        lines.append({**cells, "policy": view.described[name]})
    st.dataframe(
        pd.DataFrame(lines),
        hide_index=True,
        key=TABLE,
        on_select="rerun",
        selection_mode="single-row",
        height="content",
        column_config={"stands out": st.column_config.TextColumn(width="medium")},
    )


@st.fragment
def page(view: StudyView, counts: str, other: str | None, x: Axis, y: Axis) -> None:
    """Everything that a click or the slider changes."""
    left, right = st.columns(2, gap="medium")
    with left:
        limit = slide(view, counts)
    chosen = data.picked(view, limit, counts)
    if not chosen.names:
        st.info("No finished trial is within this budget yet.", icon=":material/hourglass_empty:")
        return
    take_click(view, chosen)
    with right:
        name = parts.choose_policy(view, chosen)
    if name is not None:
        card(view, chosen, name, limit)
    marks = data.marks(view, x, y, limit, counts, chosen)
    if other:
        theirs = data.study(other)
        marks += data.marks(theirs, x, y, None, counts, data.picked(theirs, None), other=True)
    figure = figures.front(
        marks,
        data.axis_title(x),
        data.axis_title(y),
        limit=limit if x.name == f"tflops_{counts}" else None,
        chosen=name,
        percent=y.share,
        dark=parts.dark(),
    )
    parts.plot(figure, CHART, "Quality against cost", tools=True, on_select="rerun", selection_mode="points")
    st.caption(
        "Click a point or tick a row to select its policy. Quality is measured on "
        f"{parts.plain(view.row.evaluated_on)}, {chosen.split} split (trials not confirmed there: search split); costs "
        f"are estimated for {parts.plain(view.row.model.get('id', 'the full model'))}. Front: nothing else is both "
        "better and cheaper by the exact count."
    )
    table(view, chosen)


def card(view: StudyView, chosen: Picked, name: str, limit: float | None) -> None:
    """Say what the selected policy is, and offer it."""
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{parts.plain(data.sentence(view, chosen, name, limit), 500)}**", width="stretch")
        parts.download(data.policy_document(view, name))
        query = data.link(view, name)
        st.page_link(parts.POLICY, label="Look at it", icon=":material/description:", query_params=query)
        st.page_link(parts.SEES, label="What it sees", icon=":material/visibility:", query_params=query)


st.title("Front")
view, counts, other, x, y = controls()
page(view, counts, other, x, y)
with st.expander("How the search went", icon=":material/trending_up:"):
    figure = figures.dressed(
        charts.hypervolume_history(data.history(view), "share of the plane covered"), 240, parts.dark()
    )
    parts.plot(figure, "history", "Hypervolume after each trial")
