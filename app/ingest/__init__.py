"""The data plane: the road of one event, always downhill.

routes.py (the counter: HTTP) → authentication.py (whose key is it?) → acceptance.py (shall we take it?) →
storage.py (one statement). envelope.py is what travels on it. Nothing here talks to Redis or Celery.
"""
