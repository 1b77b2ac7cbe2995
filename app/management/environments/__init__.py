"""Environments of a project."""
