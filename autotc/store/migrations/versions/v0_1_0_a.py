"""The first schema.

Written out, not made from `schema.py`: a revision must stay what it was when `schema.py` moves on.
"""

import sqlalchemy as sa
from alembic import op

revision = "v0.1.0.a"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "study",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("model", sa.JSON(), nullable=False),
        sa.Column("evaluated_on", sa.Text(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "policy",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("json", sa.JSON(), nullable=False),
    )
    op.create_table(
        "trial",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("study_id", sa.Integer(), sa.ForeignKey("study.id"), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("policy_id", sa.Text(), sa.ForeignKey("policy.id"), nullable=False),
        sa.Column("header", sa.JSON(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("violations", sa.JSON(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.Column("finished", sa.DateTime(), nullable=True),
        sa.UniqueConstraint("study_id", "role", "key"),
    )
    op.create_index("ix_trial_policy_id", "trial", ["policy_id"])
    op.create_table(
        "metric",
        sa.Column("trial_id", sa.Integer(), sa.ForeignKey("trial.id"), primary_key=True),
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("split", sa.Text(), primary_key=True),
        sa.Column("kind", sa.Text(), primary_key=True),
        sa.Column("measured_on", sa.Text(), primary_key=True),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("stderr", sa.Double(), nullable=True),
        sa.Column("n", sa.Integer(), nullable=True),
    )
    op.create_table(
        "cost",
        sa.Column("trial_id", sa.Integer(), sa.ForeignKey("trial.id"), primary_key=True),
        sa.Column("json", sa.JSON(), nullable=False),
    )
    op.create_table(
        "example",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("study_id", sa.Integer(), sa.ForeignKey("study.id"), nullable=False),
        sa.Column("split", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("image", sa.Text(), nullable=True),
        sa.Column("question_group", sa.Text(), nullable=True),
        sa.UniqueConstraint("study_id", "split", "name"),
    )
    op.create_table(
        "outcome",
        sa.Column("trial_id", sa.Integer(), sa.ForeignKey("trial.id"), primary_key=True),
        sa.Column("example_id", sa.Integer(), sa.ForeignKey("example.id"), primary_key=True),
        sa.Column("correct", sa.Double(), nullable=True),
        sa.Column("agreement", sa.Double(), nullable=True),
        sa.Column("kl", sa.Double(), nullable=True),
        sa.Column("next_correct", sa.Double(), nullable=True),
        sa.Column("blind", sa.Double(), nullable=True),
        sa.Column("full", sa.Double(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "trace",
        sa.Column("trial_id", sa.Integer(), sa.ForeignKey("trial.id"), primary_key=True),
        sa.Column("stage", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("asked", sa.Double(), nullable=False),
        sa.Column("kept", sa.Double(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "lease",
        sa.Column("trial_id", sa.Integer(), sa.ForeignKey("trial.id"), primary_key=True),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("taken", sa.DateTime(), nullable=False),
        sa.Column("expires", sa.DateTime(), nullable=False),
    )
    op.create_index("ix_lease_expires", "lease", ["expires"])
    op.create_table(
        "look",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("study_id", sa.Integer(), sa.ForeignKey("study.id"), nullable=False),
        sa.Column("split", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
    )
    op.create_index("ix_look_study_id_split", "look", ["study_id", "split"])
    op.create_table(
        "front",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("study_id", sa.Integer(), sa.ForeignKey("study.id"), nullable=False),
        sa.Column("budget", sa.JSON(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
    )
    op.create_index("ix_front_study_id", "front", ["study_id"])
    op.create_table(
        "front_member",
        sa.Column("front_id", sa.Integer(), sa.ForeignKey("front.id"), primary_key=True),
        sa.Column("rank", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("trial_id", sa.Integer(), sa.ForeignKey("trial.id"), nullable=False),
        sa.Column("numbers", sa.JSON(), nullable=False),
        sa.Column("costs", sa.JSON(), nullable=False),
    )
