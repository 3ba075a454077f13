"""The server of the pages: it is up when what they are made of is loaded, so that no visitor waits for it.

python -m dashboard run APP --server.port 8501 ...
"""

from __future__ import annotations

import sys


def preload() -> None:
    """Import what the first pages need; Streamlit would do it while the first visitor waits."""
    import pandas
    import plotly.graph_objects
    import pyarrow

    import autotc.breakdown
    import autotc.figures
    import autotc.recommend
    import autotc.store.reader

    del pandas, pyarrow, autotc
    plotly.graph_objects.Figure(
        plotly.graph_objects.Scatter(x=[0], y=[0])
    )  # these two load when they are first used


if __name__ == "__main__":
    from streamlit.web.cli import main

    preload()
    sys.exit(main(prog_name="streamlit"))
