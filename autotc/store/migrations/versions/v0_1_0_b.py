"""Calibrations: how a model's anchor policies rank beside those of its family's proxy.

Written out, not made from `schema.py`: a revision must stay what it was when `schema.py` moves on.
"""

import sqlalchemy as sa
from alembic import op

revision = "v0.1.0.b"
down_revision = "v0.1.0.a"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "calibration",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("model_fingerprint", sa.Text(), nullable=False),
        sa.Column("proxy", sa.Text(), nullable=False),
        sa.Column("proxy_fingerprint", sa.Text(), nullable=False),
        sa.Column("data_fingerprint", sa.Text(), nullable=False),
        sa.Column("examples", sa.Integer(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.Column("finished", sa.DateTime(), nullable=True),
        sa.UniqueConstraint("model_fingerprint", "proxy_fingerprint", "data_fingerprint", "examples"),
    )
    op.create_table(
        "anchor",
        sa.Column("calibration_id", sa.Integer(), sa.ForeignKey("calibration.id"), primary_key=True),
        sa.Column("policy_id", sa.Text(), primary_key=True),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("share", sa.Double(), nullable=False),
        sa.Column("policy", sa.JSON(), nullable=False),
        sa.Column("costs", sa.JSON(), nullable=False),
        sa.Column("numbers", sa.JSON(), nullable=False),
        sa.Column("outcomes", sa.JSON(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
    )
