"""The only door to SQL: studies, trials, per-example outcomes, published fronts, calibrations of proxies."""

from autotc.store.rows import (
    AnchorRow,
    CalibrationRow,
    FrontMemberRow,
    FrontRow,
    LeaseRow,
    LookRow,
    StudyRow,
    TrialRow,
)
from autotc.store.store import Store

__all__ = [
    "AnchorRow",
    "CalibrationRow",
    "FrontMemberRow",
    "FrontRow",
    "LeaseRow",
    "LookRow",
    "Store",
    "StudyRow",
    "TrialRow",
]
