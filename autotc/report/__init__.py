"""`autotc report`: a stored study as one self-contained HTML page."""

from autotc.report.page import render
from autotc.report.reading import Report, read

__all__ = ["Report", "read", "render"]
