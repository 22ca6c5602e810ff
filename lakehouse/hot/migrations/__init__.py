"""Alembic's scripts for the hot store."""
