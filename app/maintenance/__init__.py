"""The periodic tasks as plain functions, the schedule, and the Celery tasks that run them (celery_tasks.py)."""
