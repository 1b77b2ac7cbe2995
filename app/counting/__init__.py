"""Counts in memory what leaves no row of its own, and writes the counts to PostgreSQL every two seconds."""
