"""Management tokens: issue, list, revoke."""
