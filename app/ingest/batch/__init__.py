"""Batches of events: the same path for many events at once, with one commit and one answer.

routes.py → acceptance.py → body.py (outline.py), record.py, storing.py, answer.py; what one event means is decided
where single events are.
"""
