"""What pages share: the password, messages, choosing a study and a policy, and names shown as plain text."""

from __future__ import annotations

import hmac
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import streamlit as st

from autotc.errors import AutotcError
from autotc.policy import Policy
from dashboard import data
from dashboard.data import Picked, StudyView

STUDIES, FRONT, POLICY, SEES = "views/studies.py", "views/front.py", "views/policy.py", "views/sees.py"
LIVE_S = 3.0
DELAY_S = 1.0  # after a wrong password: guessing shall take long
START = "autotc search --model qwen2.5-vl --max-tflops 800"
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>$:~^&])")


def plain(text: object, most: int = data.SHOWN) -> str:
    """Return a text from a user so that Markdown shows it as it is, cut where it is long."""
    return _MARKUP.sub(r"\\\1", data.short(str(text), most))


@contextmanager
def explained() -> Iterator[None]:
    """Show what a page could not read as a message instead of a trace."""
    try:
        yield
    except (AutotcError, ValueError) as error:
        st.error("This cannot be shown.", icon=":material/error:")
        st.code(data.short(str(error), 1000), language=None, wrap_lines=True)


def gate() -> None:
    """Stop here until the visitor has given the password, where there is one."""
    file = os.environ.get("AUTOTC_PASSWORD_FILE")
    if not file or st.session_state.get("known"):
        return
    st.title("autotc")
    with st.form("password", width=420):
        given = st.text_input("Password", type="password")
        if st.form_submit_button("Open"):
            wanted = Path(file).read_text(encoding="utf-8").strip()
            if hmac.compare_digest(given.encode(), wanted.encode()):
                st.session_state.known = True
                st.rerun()
            time.sleep(DELAY_S)
            st.error("That is not the password.")
    st.stop()


@st.fragment(run_every=LIVE_S)
def live() -> None:
    """Run the page again when anything stored has changed."""
    now = data.versions()
    if st.session_state.setdefault("seen", now) != now:
        st.session_state.seen = now
        st.rerun()


def dark() -> bool:
    """Return whether the page's ground is dark."""
    return st.context.theme.type == "dark"


def no_study() -> None:
    """Say that there is nothing yet, and how to start."""
    st.info("No study is stored here yet.", icon=":material/search:")
    st.text(f"Database: {data.reader().url_shown}")
    st.text("Start one in a terminal; this page fills while it runs:")
    st.code(START, language="bash")
    st.stop()


def choose_study(label: str = "Study") -> StudyView:
    """Let the visitor choose a study (kept in the URL) and return it; without any, say how to start one."""
    names = list(data.versions())[::-1]
    if not names:
        no_study()
    chosen = st.selectbox(
        label,
        names,
        key="study",
        bind="query-params",
        format_func=data.short,
        on_change=_forget,
    )
    return data.study(chosen)


def _forget() -> None:
    # trial numbers and budgets of another study mean nothing here
    for key in ("trial", "budget", "other", "counts", "clicked", "beside"):
        st.session_state.pop(key, None)


def choose_policy(view: StudyView, chosen: Picked, key: str = "trial", label: str = "Policy") -> str | None:
    """Let the visitor choose a policy (kept in the URL) and return its name; None where there is none."""
    current = st.session_state.get(key) or st.query_params.get(key)
    references = [name for name, m in view.members.items() if m.reference]
    extra = [current] if current in view.members else []
    options = list(dict.fromkeys([*chosen.names, *extra, *references]))
    if not options:
        return None
    best = options.index(chosen.best) if chosen.best in options else 0
    if st.session_state.get(key) not in options:
        st.session_state.pop(key, None)
    return st.selectbox(
        label,
        options,
        index=best,
        key=key,
        bind="query-params",
        format_func=lambda name: f"{title(view, name)} · {view.described[name]}",
    )


def title(view: StudyView, name: str) -> str:
    """Return what a policy is called."""
    return data.short(name) if view.members[name].reference else f"trial {name}"


def download(policy: Policy, kind: str = "primary", key: str = "download") -> None:
    """Offer a policy as a file."""
    st.download_button(
        "Download policy.json",
        policy.json_text(),
        file_name="policy.json",
        mime="application/json",
        icon=":material/download:",
        type="primary" if kind == "primary" else "secondary",
        on_click="ignore",
        key=key,
    )


def plot(figure: Any, key: str, alt: str, **options: Any) -> Any:
    """Show a figure without the toolbar's clutter."""
    config = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"]}
    return st.plotly_chart(figure, key=key, config={**config, "displayModeBar": "hover"}, alt=alt, **options)
