"""Replays: the events of a query, stored again in a source as new events. The worker does it (app/jobs/replay.py).

routes ─► schemas ─► domain ─► origin (ids that name the replay and the original)
"""
