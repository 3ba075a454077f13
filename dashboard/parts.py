"""What pages share: the password, messages, choosing a study and a policy, and names shown as plain text."""

from __future__ import annotations

import hmac
import os
import re
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import streamlit as st

from autotc.errors import AutotcError
from autotc.policy import Policy
from autotc.recommend import Recommendation
from dashboard import data, words
from dashboard.data import StudyView
from dashboard.fronts import Picked

STUDIES, FRONT, POLICY, SEES = "views/studies.py", "views/front.py", "views/policy.py", "views/sees.py"
LIVE_S = 3.0
DELAY_S = 1.0  # after a wrong password: guessing shall take long
START = "autotc search --model qwen2.5-vl --max-tflops 800"
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>$:~^&])")


def plain(text: object, most: int = words.SHOWN) -> str:
    """Return a text from a user so that Markdown shows it as it is, cut where it is long."""
    return _MARKUP.sub(r"\\\1", words.short(str(text), most))


@contextmanager
def explained() -> Iterator[None]:
    """Show what a page could not read as a message instead of a trace."""
    try:
        yield
    except (AutotcError, ValueError) as error:
        st.error("This cannot be shown.", icon=":material/error:")
        st.code(words.short(str(error), 1000), language=None, wrap_lines=True)


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
    _adopt("study", names, names[0])
    chosen = st.selectbox(
        label, names, key="study", format_func=words.short, on_change=_forget, persist_state="session"
    )
    _publish("study")
    return data.study(chosen)


def budget(view: StudyView) -> tuple[float | None, str]:
    """Return the budget in the URL and how it counts; without one those of the study."""
    asked, counts = st.query_params.get("budget", ""), st.query_params.get("counts", view.convention)
    if counts not in words.COUNTS or not asked.isdecimal():
        return view.limit, view.convention
    return float(asked), counts


def _forget() -> None:
    # trial numbers of another study mean nothing here
    for key in ("trial", "other", "clicked", "beside"):
        st.session_state.pop(key, None)
    st.query_params.pop("budget", None)


def choose_policy(view: StudyView, chosen: Picked) -> str | None:
    """Let the visitor choose a policy (kept in the URL) and return its name; None where there is none."""
    _adopt("trial", view.members, chosen.best)
    current = st.session_state.get("trial")
    references = [name for name, m in view.members.items() if m.reference]
    options = list(dict.fromkeys([*chosen.names, *([current] if current else []), *references]))
    if not options:
        return None
    name = st.selectbox(
        "Policy",
        options,
        key="trial",
        format_func=lambda name: f"{title(view, name)} · {view.described[name]}",
        persist_state="session",
    )
    _publish("trial")
    return name


def _adopt(key: str, allowed: Container[str], otherwise: str | None) -> None:
    """Take a choice from the URL where it was changed there since it was last written, as by going back."""
    asked = st.query_params.get(key)
    if asked in allowed and asked != st.session_state.get(f"url {key}"):
        st.session_state[key] = asked
    if st.session_state.get(key) not in allowed:
        st.session_state.pop(key, None)
        if otherwise is not None:
            st.session_state[key] = otherwise


def _publish(key: str) -> None:
    chosen = st.session_state[key]
    if st.query_params.get(key) != chosen:
        st.query_params[key] = chosen
    st.session_state[f"url {key}"] = chosen


def verdict(why: Recommendation) -> None:
    """Say whether a policy is recommended, and why (not)."""
    if why.recommended:
        st.caption(plain(why.text, 1000))
    else:
        st.warning(plain(why.text, 1000), icon=":material/warning:")


def title(view: StudyView, name: str) -> str:
    """Return what a policy is called."""
    return words.short(name) if view.members[name].reference else f"trial {name}"


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


def plot(figure: Any, key: str, alt: str, tools: bool = False, **options: Any) -> Any:
    """Show a figure, with buttons to zoom where it needs them."""
    config = {
        "displaylogo": False,
        "displayModeBar": "hover" if tools else False,
        "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],
    }
    return st.plotly_chart(figure, key=key, config=config, alt=alt, **options)
