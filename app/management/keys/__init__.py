"""Source keys: issue, list, change, rotate, revoke."""
