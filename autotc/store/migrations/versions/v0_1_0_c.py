"""The service: jobs that workers take up, bearer tokens, who closes a study, evaluation processes a trial has cost.

Written out, not made from `schema.py`: a revision must stay what it was when `schema.py` moves on.
"""

import sqlalchemy as sa
from alembic import op

revision = "v0.1.0.c"
down_revision = "v0.1.0.b"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "job",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("study", sa.Text(), nullable=True),
        sa.Column("submitted_by", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.Column("started", sa.DateTime(), nullable=True),
        sa.Column("finished", sa.DateTime(), nullable=True),
    )
    op.create_index("ix_job_state", "job", ["state"])
    op.create_table(
        "token",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False, unique=True),
        sa.Column("digest", sa.Text(), nullable=False, unique=True),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.Column("revoked", sa.DateTime(), nullable=True),
    )
    op.add_column("trial", sa.Column("losses", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("study", sa.Column("closer", sa.Text(), nullable=True))
    op.add_column("study", sa.Column("closer_until", sa.DateTime(), nullable=True))
