"""For all tests: skipped GPU and PostgreSQL tests are counted, so that nobody takes them for passed."""

from typing import Any

from tests.postgres import HINT, database_url, postgres, postgres_url  # noqa: F401 - fixtures for all tests


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many GPU tests had no GPU, and how many PostgreSQL tests no server."""
    reports = terminalreporter.stats.get("skipped", [])
    skipped = [report for report in reports if "gpu" in report.keywords]
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} GPU tests skipped: no CUDA device (make gpu-test runs them)"
        )
    without = [report for report in reports if "Skipped: PostgreSQL: " in str(report.longrepr)]
    if without:
        terminalreporter.write_line(f"{len(without)} PostgreSQL tests skipped: {HINT}")
