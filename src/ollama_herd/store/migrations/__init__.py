"""Alembic scripts, run forward only when a database is opened."""
