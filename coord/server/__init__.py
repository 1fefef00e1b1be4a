"""Thin loops around the pure machines of `coord.core`: one a noun."""
