"""Bytes to values and back, and the rules of HTTP, without a framework, a database or a setting."""
