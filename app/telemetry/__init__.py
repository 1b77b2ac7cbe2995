"""Structured logs, the access log, and the metrics that a process counts."""
