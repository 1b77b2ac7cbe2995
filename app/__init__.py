"""Lariba: events in, exactly once. Start reading at factory.py (the entry point) or ingest/ (the path of an event)."""
