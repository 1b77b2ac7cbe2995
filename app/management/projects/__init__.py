"""Projects of a workspace."""
