"""The kinds of jobs that the worker gives turns."""

from typing import Final

from app.jobs.export import remove_part, write_export
from app.jobs.replay import end_key, replay_events
from app.jobs.turns import Kind
from app.models import Export, Replay

KINDS: Final = (Kind(Export, write_export, remove_part), Kind(Replay, replay_events, end_key))
