"""Reads the audit log over the API; app/audit writes it."""
