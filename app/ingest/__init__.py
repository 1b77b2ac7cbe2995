"""The data plane: the road of one event, always downhill.

routes.py (the counter: HTTP) → acceptance.py (shall we take it?) → committer.py (all that wait go together) →
storage.py (one statement). Beside it: authentication.py (whose key is it?), contention.py (who waits for others),
shares.py (how much of a workspace may wait), cors.py (which web pages may read the answer). envelope.py,
common_envelope.py and pending_write.py are what travels on it.
door.py takes the same road faster for what is common; batch/ takes it for many events at once.
Nothing here waits for Redis or Celery.
"""
