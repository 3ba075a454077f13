"""Changes of a study are counted, so that readers ask for what is new; trials are counted by state from an index.

Written out, not made from `schema.py`: a revision must stay what it was when `schema.py` moves on.
"""

import sqlalchemy as sa
from alembic import op

revision = "v0.1.0.e"
down_revision = "v0.1.0.d"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("study", sa.Column("changes", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("trial", sa.Column("changed", sa.Integer(), nullable=False, server_default="0"))
    op.create_index("ix_trial_study_id_changed", "trial", ["study_id", "changed"])
    op.create_index("ix_trial_study_id_role_state", "trial", ["study_id", "role", "state"])
