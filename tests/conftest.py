"""For all tests: skipped GPU tests are counted, so that nobody takes them for passed."""

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many GPU tests had no GPU."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "gpu" in report.keywords]
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} GPU tests skipped: no CUDA device (make gpu-test runs them)"
        )
