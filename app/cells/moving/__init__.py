"""Moves a workspace from one cell to another while it goes on (docs/decisions/0027)."""
