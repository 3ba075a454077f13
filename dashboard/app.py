"""The entry: a frame around the pages.

They lie in `views/`: a folder named `pages` beside this file would be Streamlit's older form of pages, which it may
open without this file, and so without asking for the password.
"""

from __future__ import annotations

import streamlit as st

from dashboard import parts

st.set_page_config(
    page_title="autotc",
    page_icon=":material/filter_alt:",
    layout="wide",
    menu_items={"About": "autotc: which visual tokens can your vision-language model do without?"},
)
# a chart and its policy shall be seen together on a small screen
st.html(
    "<style>.stMainBlockContainer {padding-top: 4.2rem; padding-bottom: 3rem} "
    ".stMain h1 {font-size: 1.6rem; padding: 0.2rem 0} .stMain h3 {font-size: 1.15rem}</style>"
)
parts.gate()
page = st.navigation(
    [
        st.Page(parts.STUDIES, title="Studies", icon=":material/table_rows:", default=True),
        st.Page(parts.FRONT, title="Front", icon=":material/scatter_plot:"),
        st.Page(parts.POLICY, title="Policy", icon=":material/description:"),
        st.Page(parts.SEES, title="What it sees", icon=":material/visibility:", url_path="sees"),
        st.Page("views/methods.py", title="Methods", icon=":material/category:"),
        st.Page("views/runs.py", title="Runs", icon=":material/memory:"),
    ],
    position="top",
)
with parts.explained():
    page.run()
parts.live()
