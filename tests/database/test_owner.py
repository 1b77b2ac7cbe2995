"""The work on partitions: by one process at a time, as the tables' owner."""

import pytest

from app.config import Settings
from app.database import owner as owner_module
from app.database.owner import NotTheOwnerError, Owner, OwnerBusyError


def test_the_work_on_partitions_is_done_by_one_process_at_a_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_module, "_LOCK_SECONDS_MAX", 0.0)
    one, other = Owner(settings.admin_database_url), Owner(settings.admin_database_url)

    with one.locked() as working:
        with pytest.raises(OwnerBusyError), other.locked():
            pass
        with other.connection() as reading:
            assert reading.execute("SELECT 1").fetchone() == (1,)
        assert working.execute("SELECT 1").fetchone() == (1,)


def test_the_next_process_works_when_the_one_before_has_ended_or_failed(settings: Settings) -> None:
    def fail() -> None:
        with Owner(settings.admin_database_url).locked():
            raise InterruptedError

    for _ in range(2):
        with pytest.raises(InterruptedError):
            fail()


def test_a_role_that_does_not_own_the_tables_is_refused(settings: Settings) -> None:
    with pytest.raises(NotTheOwnerError, match="LARIBA_ADMIN_DATABASE_URL"), Owner(settings.database_url).locked():
        pass
