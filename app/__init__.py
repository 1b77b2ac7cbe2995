"""Lariba: events in, exactly once. Start reading at factory.py (the roof) or ingest/ (the road of an event)."""
