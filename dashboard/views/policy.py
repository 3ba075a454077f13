"""Policy: what the selected policy does to tokens, cost and answers; what is beside it; how it is used."""

from __future__ import annotations

import streamlit as st

from autotc import charts, figures
from dashboard import data, fronts, parts, policy_panels

st.title("Policy")
first, second = st.columns([1, 2])
with first:
    view = parts.choose_study()
with second:
    limit, counts = parts.budget(view)
    chosen = fronts.picked(view, limit, counts)
    name = parts.choose_policy(view, chosen)
if name is None:
    st.info("No trial of this study is finished yet.", icon=":material/hourglass_empty:")
    st.stop()
m, full = view.members[name], view.uncompressed
why = fronts.why(view, chosen, name)
parts.verdict(why)
policy_panels.headline(view, m)
left, right = st.columns([3, 2], gap="large")
with left:
    st.subheader("Tokens through the model")
    tokens = full.number("visual_tokens") if full else None
    depth = charts.tokens_by_depth(m.policy, tokens.value if tokens else 1.0, data.kept(view, name))
    parts.plot(figures.dressed(depth, 330, parts.dark()), "depth", "Visual tokens alive at each depth")
    st.subheader("Where the cost goes")
    bars = data.parts(view, name)
    if bars:
        figure = figures.dressed(charts.cost_parts(bars), 200, parts.dark())
        parts.plot(figure, "parts", "Cost by part of the model")
    st.subheader("Which questions suffer")
    policy_panels.answers(view, name)
with right:
    st.subheader("Take it")
    policy_panels.leave(view, name, why)
    query = fronts.link(view, name, limit, counts)
    st.page_link(parts.SEES, label="What it sees", icon=":material/visibility:", query_params=query)
    st.subheader("Its neighbours on the front")
    policy_panels.beside(view, name)
    st.subheader("Where the figures come from")
    policy_panels.origin(view, name)
