"""For `celery -A tests.support.fast_bells.celery beat`: the product's Celery app with short intervals."""

from wsgi import celery

_RING_SECONDS = 0.25

celery.conf.beat_schedule = {
    name: {**bell, "schedule": _RING_SECONDS} for name, bell in celery.conf.beat_schedule.items()
}
