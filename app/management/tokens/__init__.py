"""Management tokens: issue, change, revoke."""
