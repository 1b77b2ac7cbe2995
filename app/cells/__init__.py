"""Cells: complete installations side by side, each with some of the workspaces (docs/scaling.md)."""
