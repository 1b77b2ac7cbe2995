"""What the docs say, the code does: errors, settings, tasks."""

import dataclasses
import re
from pathlib import Path

from app import errors
from app.config import Settings, variable_of
from app.errors import Refusal
from app.maintenance.schedule import TASKS
from app.web.problems import STATUSES
from app.worker import BEAT_SCHEDULE, create_celery

_FALLS_BACK = {"LARIBA_ADMIN_DATABASE_URL": "the one above"}
_DOCS = Path(__file__).parent.parent.parent / "docs"


def _refusals() -> set[type[Refusal]]:
    found = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Refusal)}
    return found - {Refusal}


def _rows(page: str) -> dict[str, list[str]]:
    """The rows of a page's tables by the first word in back quotes."""
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", (_DOCS / page).read_text(), re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


def test_every_refusal_has_a_status_a_code_and_a_sentence() -> None:
    assert set(STATUSES) == _refusals()
    for refusal in _refusals():
        assert re.fullmatch(r"[a-z_]+", refusal.code)
        assert refusal().message.endswith(".")
        assert "\n" not in refusal().message


def test_errors_md_lists_every_code_with_its_status_and_whether_a_retry_helps() -> None:
    documented = _rows("errors.md")
    codes: dict[str, tuple[set[int], bool]] = {}
    for refusal, status in STATUSES.items():
        statuses, _ = codes.get(refusal.code, (set(), False))
        codes[refusal.code] = (statuses | {status}, refusal.retryable)

    assert set(documented) == set(codes)
    for code, (statuses, is_retryable) in codes.items():
        assert documented[code][0] == ", ".join(map(str, sorted(statuses))), code
        assert documented[code][1] == ("yes" if is_retryable else "no"), code


def test_settings_md_lists_every_setting_with_its_default() -> None:
    documented = _rows("settings.md")
    fields = {variable_of(field.name): field for field in dataclasses.fields(Settings)}

    assert set(documented) == set(fields)
    for variable, field in fields.items():
        default = "required" if field.default is dataclasses.MISSING else f"`{field.default}`"
        assert documented[variable][0] == _FALLS_BACK.get(variable, default), variable


def test_every_beat_entry_names_a_task_that_exists_and_every_task_has_one(settings: Settings) -> None:
    registered = {name for name in create_celery(settings).tasks if not name.startswith("celery.")}

    assert {entry["task"] for entry in BEAT_SCHEDULE.values()} == registered == {task.celery_name for task in TASKS}


def test_maintenance_md_lists_every_task_with_how_often_it_is_wanted() -> None:
    wanted = {task.name: f"{task.every.total_seconds():.0f} s" for task in TASKS}

    assert {name: cells[0] for name, cells in _rows("maintenance.md").items()} == wanted
