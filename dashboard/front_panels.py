"""What the page of a front is put together from."""

from __future__ import annotations

import math

import pandas as pd
import streamlit as st

from dashboard import data, fronts, parts, words
from dashboard.data import Axis, StudyView
from dashboard.fronts import Picked

SPLITS = {
    "search": "On the examples the search chose by: the winners look a little too good here",
    "selection": "On examples the search did not see; the front is drawn on them and those of the search together",
    "held-out": "On examples that nothing was chosen by: the figure to quote",
}
CHART, TABLE = "front", "members"  # keys of what can be clicked


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
            format_func=words.COUNTS.__getitem__,
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
            format_func=words.short,
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
    return view, str(counts), other, x, y


def slide(view: StudyView, counts: str) -> float | None:
    """Let the visitor move the budget."""
    costs = [c for m in view.members.values() if not m.reference and (c := fronts.cost(m, counts)) < math.inf]
    if not costs:
        return None
    low, high = math.ceil(min(costs)), math.ceil(max([*costs, view.limit or 0]))
    top = max(high, low + 1)
    start = min(max(view.limit or top, low), top) if counts == view.convention else top
    if not low <= st.session_state.get("budget", low) <= top:
        del st.session_state.budget  # of another study
    return st.slider(
        f"Budget, TFLOP per 1,000 requests ({words.COUNTS[counts]})",
        low,
        top,
        int(start),
        key="budget",
        bind="query-params",
        on_change=lambda: st.session_state.pop("trial", None),
    )


def take_click(view: StudyView, chosen: Picked) -> None:
    """Select the policy whose point or line was clicked since the page was last drawn."""
    points = st.session_state.get(CHART, {}).get("selection", {}).get("points", [])
    cells = st.session_state.get(TABLE, {}).get("selection", {}).get("cells", [])
    now = (points[0].get("customdata", [None])[0] if points else None, cells[0][0] if cells else None)
    before = st.session_state.get("clicked", (None, None))
    st.session_state.clicked = now
    if now[0] != before[0] and now[0] in view.members:
        st.session_state.trial = now[0]
    elif now[1] is not None and now[1] != before[1] and now[1] < len(chosen.names):
        st.session_state.trial = chosen.names[now[1]]


def table(view: StudyView, chosen: Picked) -> None:
    """List the front; a click on a line selects the policy."""
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
            cells[title] = "–" if found is None else words.value(found).removesuffix(f" {found.unit}")
        lines.append({**cells, "policy": view.described[name]})
    st.dataframe(
        pd.DataFrame(lines),
        hide_index=True,
        key=TABLE,
        on_select="rerun",
        selection_mode="single-cell",
        height="content",
        column_config={
            "stands out": st.column_config.TextColumn(
                width="medium",
                help="Best: highest quality. Knee: where more cost starts to buy little. Cheapest within noise: at "
                "most one standard error below the best. All among those that meet the constraints.",
            ),
            f"quality ({chosen.split})": st.column_config.TextColumn(help=SPLITS[chosen.split]),
            "quality (held-out)": st.column_config.TextColumn(help=SPLITS["held-out"]),
            "TFLOP exact": st.column_config.TextColumn(
                help="Per 1,000 requests: all that is executed, two operations a multiply-add"
            ),
            "TFLOP papers’ count": st.column_config.TextColumn(
                help="Per 1,000 requests: the decoder’s prefill over visual tokens, as papers count it"
            ),
            "tokens": st.column_config.TextColumn(
                help="Visual tokens in the mean layer of the language model"
            ),
        },
    )


def card(view: StudyView, chosen: Picked, name: str, limit: float | None, counts: str) -> None:
    """Say what the selected policy is and what speaks for or against it, and offer it."""
    why = fronts.why(view, chosen, name)
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{parts.plain(fronts.sentence(view, chosen, name, limit), 500)}**", width="stretch")
        parts.download(data.policy_document(view, name, why))
        query = fronts.link(view, name, limit, counts)
        st.page_link(parts.POLICY, label="Look at it", icon=":material/description:", query_params=query)
        st.page_link(parts.SEES, label="What it sees", icon=":material/visibility:", query_params=query)
    if not why.recommended:  # else it stands below the chart, which shall be seen beside the policy
        parts.verdict(why)
