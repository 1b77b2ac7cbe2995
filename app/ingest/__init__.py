"""The data plane: from the first byte of a request to the commit of its events.

A common event: fast_path.py → acceptance.py (the one order: key, rate, body, decode, store) → event.py → committer.py
(all events that wait are written together) → storage.py (one statement). routes.py takes the same order through Flask,
for whatever is not common, and batch/ for many events at once. Beside it: contention.py (events that another
transaction keeps from being written), verdicts.py (what an outcome means to the producer), cors.py (web pages).
Nothing here waits for Redis or Celery.
"""
