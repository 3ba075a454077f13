"""Versions and machine that trials were run with.

Written out, not made from `schema.py`: a revision must stay what it was when `schema.py` moves on.
"""

import sqlalchemy as sa
from alembic import op

revision = "v0.1.0.d"
down_revision = "v0.1.0.c"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "environment",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("study_id", sa.Integer(), sa.ForeignKey("study.id"), nullable=False),
        sa.Column("json", sa.JSON(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
    )
    op.create_index("ix_environment_study_id", "environment", ["study_id"])
    # in words both databases know: Alembic would copy the whole table of trials on SQLite
    op.execute(
        "ALTER TABLE trial ADD COLUMN environment_id INTEGER "
        "CONSTRAINT fk_trial_environment_id REFERENCES environment (id)"
    )
