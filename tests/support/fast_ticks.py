"""For `celery -A tests.support.fast_ticks.celery beat`: the product's Celery app with short intervals."""

from wsgi import celery

_TICK_SECONDS = 0.25

celery.conf.beat_schedule = {
    name: {**tick, "schedule": _TICK_SECONDS} for name, tick in celery.conf.beat_schedule.items()
}
