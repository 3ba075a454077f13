"""The only door to SQL: studies, trials, outcomes, published fronts, calibrations, jobs and tokens."""

from autotc.store.rows import (
    AnchorRow,
    CalibrationRow,
    FrontMemberRow,
    FrontRow,
    JobRow,
    LeaseRow,
    LookRow,
    StudyRow,
    TokenRow,
    TrialRow,
)
from autotc.store.store import Store

__all__ = [
    "AnchorRow",
    "CalibrationRow",
    "FrontMemberRow",
    "FrontRow",
    "JobRow",
    "LeaseRow",
    "LookRow",
    "Store",
    "StudyRow",
    "TokenRow",
    "TrialRow",
]
