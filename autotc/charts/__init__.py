"""Pictures as Plotly figures made of plain data; the same figures as SVG for pages that must stay small.

`front.FrontChart` also draws a PNG with Matplotlib, and `dots.DotChart` only that.
"""

from autotc.charts.dots import DotChart, Dots
from autotc.charts.figures import (
    Difference,
    Group,
    cost_parts,
    differences,
    group_quality,
    hypervolume_history,
    tokens_by_depth,
)
from autotc.charts.front import FrontChart, Limit, Point, Role
from autotc.charts.palette import COLOURS, PARTS
from autotc.charts.static import svg

__all__ = [
    "COLOURS",
    "PARTS",
    "Difference",
    "DotChart",
    "Dots",
    "FrontChart",
    "Group",
    "Limit",
    "Point",
    "Role",
    "cost_parts",
    "differences",
    "group_quality",
    "hypervolume_history",
    "svg",
    "tokens_by_depth",
]
