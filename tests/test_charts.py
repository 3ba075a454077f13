"""Pictures of a front are written in both formats, and refused in others."""

from __future__ import annotations

import pytest

from autotc.charts import FrontChart, Point
from autotc.errors import SpecError


@pytest.fixture
def chart() -> FrontChart:
    points = [Point(3000 + 400 * i, 0.6 + 0.05 * i, 0.01, "front", f"#{i}", f"trial {i}") for i in range(6)]
    points += [Point(3500 + 90 * i, 0.5 + 0.015 * i, 0.02, "trial", f"#{i + 6}", "other") for i in range(20)]
    points += [
        Point(4000, 0.55, 0.02, "reference", "random", "random"),
        Point(4000, 0.56, 0.02, "reference", "downsample", "downsample"),
        Point(6000, 0.95, 0.01, "reference", "uncompressed", "uncompressed"),
        Point(4100, 0.57, 0.02, "preset", "fastv", "fastv"),
    ]
    return FrontChart("a study", "limit 800", points)


def test_png_is_a_picture(chart, tmp_path):
    chart.write(tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_html_holds_every_point_and_needs_no_network(chart, tmp_path):
    chart.write(tmp_path / "front.html")
    text = (tmp_path / "front.html").read_text()
    assert "downsample" in text
    assert 'src="http' not in text
    assert sum(len(trace.x) for trace in chart.figure().data) == len(chart.points)


def test_a_far_reference_becomes_a_level(chart):
    far = Point(60_000, 0.95, 0.01, "reference", "uncompressed", "uncompressed")
    wide = FrontChart("a study", "limit 800", [*chart.points, far])
    assert wide.beyond == [far]
    assert max(max(trace.x) for trace in wide.figure().data) < 10_000
    assert "60,000" in wide.figure().to_json()


def test_other_formats_and_missing_folders_are_refused(chart, tmp_path):
    with pytest.raises(SpecError, match=r"\.html or \.png"):
        chart.write(tmp_path / "front.svg")
    with pytest.raises(SpecError, match="cannot be written"):
        chart.write(tmp_path / "none" / "front.png")
