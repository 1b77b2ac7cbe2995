"""Batches of events: the same path for many events at once, with one commit and one answer.

routes.py → acceptance.py → incoming.py, which reads the batch (body.py, outline.py) and stores it (transaction.py, with
record.py, storing.py and answer.py). What one event means is decided where single events are.
"""
