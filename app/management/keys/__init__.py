"""Source keys: issue, list, rotate, revoke, and what each may do."""
