"""Every method and every published recipe at equal exact cost, on examples that no search has used.

A budget is the exact cost of the plainest policy, random tokens behind the projector, that leaves a share of an image's
tokens. Each preset is scaled to that cost on the full model, so a method that cuts late, reads attention maps or
saves work in the tower stands on the same axis. Quality is measured on the family's proxy, held-out split, and
differences from random tokens are paired over the same examples, with standard errors clustered by image.
"""

from autotc.leaderboard.board import Board, Entry, Row
from autotc.leaderboard.drawing import picture, table, verdicts
from autotc.leaderboard.measuring import Measures, measure
from autotc.leaderboard.planning import BASELINES, SHARES, plan

__all__ = [
    "BASELINES",
    "SHARES",
    "Board",
    "Entry",
    "Measures",
    "Row",
    "measure",
    "picture",
    "plan",
    "table",
    "verdicts",
]
