"""What Celery does, as plain functions that tests and the CLI can call; tasks.py holds the doorbells."""
