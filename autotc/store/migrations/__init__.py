"""The schema's history, run by Alembic: one file a revision, named by the autotc that brought it."""
