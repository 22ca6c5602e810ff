"""Superset assets and the operator's console."""
