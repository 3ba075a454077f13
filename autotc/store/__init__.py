"""The only door to SQL: studies, trials, per-example outcomes, published fronts."""

from autotc.store.rows import FrontMemberRow, FrontRow, LeaseRow, LookRow, StudyRow, TrialRow
from autotc.store.store import Store

__all__ = ["FrontMemberRow", "FrontRow", "LeaseRow", "LookRow", "Store", "StudyRow", "TrialRow"]
