"""A database of a test's own: a run works for all workspaces, and would do the jobs of other tests."""

from tests.maintenance.conftest import _installation

__all__ = ["_installation"]
