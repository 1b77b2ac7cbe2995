"""Bounded concurrency, background threads and fork hooks, shared by all packages."""
