"""The product's Celery app for `celery -A tests.fast_bells.celery beat`: a test has no ten seconds for each bell."""

from wsgi import celery

_RING_SECONDS = 0.25

celery.conf.beat_schedule = {
    name: {**bell, "schedule": _RING_SECONDS} for name, bell in celery.conf.beat_schedule.items()
}
