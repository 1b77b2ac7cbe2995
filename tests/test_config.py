"""Settings: strict, and each failure names its variable."""

from pathlib import Path

import pytest

from app.config import Settings, SettingsError

_LEAST = {
    "LARIBA_DATABASE_URL": "postgresql://app@db/lariba",
    "LARIBA_BROKER_URL": "redis://broker",
    "LARIBA_SECRET_KEY": "x" * 40,
}
_SECRET = "s" * 40


def test_three_variables_are_enough() -> None:
    settings = Settings.from_environment(_LEAST)

    assert settings.admin_database_url == settings.database_url == "postgresql://app@db/lariba"
    assert settings.idempotency_ttl_seconds == 86_400


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LARIBA_DATABASE_URL", "mysql://app@db/lariba"),
        ("LARIBA_ADMIN_DATABASE_URL", "sqlite:///x"),
        ("LARIBA_READ_DATABASE_URL", "https://standby/lariba"),
        ("LARIBA_READ_LAG_SECONDS_MAX", "1.9"),
        ("LARIBA_REDIS_URL", "redis+socket:///run/redis.sock"),
        ("LARIBA_SECRET_KEY", "short"),
        ("LARIBA_SECRET_KEY", "x" * 40 + ",short"),
        ("LARIBA_SECRET_KEY", "x" * 40 + ",,"),
        ("LARIBA_LOG_LEVEL", "LOUD"),
        ("LARIBA_DATABASE_POOL_SIZE", "0"),
        ("LARIBA_DATABASE_POOL_SIZE", "-1"),
        ("LARIBA_DATABASE_POOL_SIZE", "many"),
        ("LARIBA_DATABASE_POOL_SIZE", "1.5"),
        ("LARIBA_STORAGE_DEADLINE_SECONDS", "nan"),
        ("LARIBA_SOURCE_KEY_EVENTS_PER_SECOND", "0"),
        ("LARIBA_WORKSPACE_EVENTS_PER_SECOND", "none"),
        ("LARIBA_STORAGE_DEADLINE_SECONDS", "inf"),
        ("LARIBA_RETENTION_DAYS", "0"),
        ("LARIBA_EVENT_ID_DAYS", "off"),
    ],
)
def test_a_wrong_value_is_refused_by_name_in_one_line(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable}") as refusal:
        Settings.from_environment(_LEAST | {variable: value})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("off", ["off", "OFF", " off "])
def test_a_rate_limit_is_a_number_or_off(off: str) -> None:
    variable = "LARIBA_SOURCE_KEY_EVENTS_PER_SECOND"

    assert Settings.from_environment(_LEAST | {variable: "7"}).source_key_events_per_second == 7
    assert Settings.from_environment(_LEAST | {variable: off}).source_key_events_per_second is None


def test_an_event_id_protects_no_shorter_than_an_idempotency_key() -> None:
    seconds = {"LARIBA_IDEMPOTENCY_TTL_SECONDS": str(2 * 86_400)}

    assert Settings.from_environment(_LEAST | seconds | {"LARIBA_EVENT_ID_DAYS": "2"}).event_id_days == 2
    with pytest.raises(SettingsError, match=r"^LARIBA_EVENT_ID_DAYS"):
        Settings.from_environment(_LEAST | seconds | {"LARIBA_EVENT_ID_DAYS": "1"})


@pytest.mark.parametrize("variable", sorted(_LEAST))
def test_a_missing_value_is_refused_by_name(variable: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable} is missing"):
        Settings.from_environment({name: value for name, value in _LEAST.items() if name != variable})


def test_a_secret_stands_in_no_repr() -> None:
    settings = Settings.from_environment(_LEAST | {"LARIBA_DATABASE_URL": "postgresql://app:pass-word@db/lariba"})

    assert "pass-word" not in repr(settings)
    assert "xxxx" not in repr(settings)


class TestFiles:
    """A setting's value may stand in a file that the variable with _FILE names."""

    def test_every_setting_may_be_given_as_a_file(self, tmp_path: Path) -> None:
        values = _LEAST | {"LARIBA_DATABASE_POOL_SIZE": "7", "LARIBA_TRUSTED_PROXIES": "10.0.0.0/8,::1"}
        for variable, value in values.items():
            (tmp_path / variable).write_text(value + "\n")
        named = {f"{variable}_FILE": str(tmp_path / variable) for variable in values}

        assert Settings.from_environment(named) == Settings.from_environment(values)

    def test_a_file_brings_a_list_as_the_variable_does(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text(f"{_SECRET}, {'o' * 40} \r\n")

        assert _from_file("LARIBA_SECRET_KEY", tmp_path / "secret").secret_key == (_SECRET, "o" * 40)

    def test_an_empty_path_names_no_file(self) -> None:
        assert Settings.from_environment(_LEAST | {"LARIBA_SECRET_KEY_FILE": " "}).secret_key == ("x" * 40,)

    def test_a_value_and_a_file_for_one_setting_are_one_too_many(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text(_SECRET)

        with pytest.raises(SettingsError, match=r"^LARIBA_SECRET_KEY and LARIBA_SECRET_KEY_FILE are both set"):
            Settings.from_environment(_LEAST | {"LARIBA_SECRET_KEY_FILE": str(tmp_path / "secret")})

    @pytest.mark.parametrize("content", [b"", b" \n", f"{_SECRET}\n{_SECRET}".encode(), b"\xff" * 40, None])
    def test_a_file_that_holds_no_value_is_refused_by_name_in_one_line(
        self, tmp_path: Path, content: bytes | None
    ) -> None:
        if content is not None:
            (tmp_path / "secret").write_bytes(content)

        with pytest.raises(SettingsError, match=r"^LARIBA_SECRET_KEY_FILE names a file") as refusal:
            _from_file("LARIBA_SECRET_KEY", tmp_path / "secret")
        assert "\n" not in str(refusal.value)

    @pytest.mark.parametrize(
        "variable",
        [
            "LARIBA_DATABASE_URL",
            "LARIBA_REDIS_URL",
            "LARIBA_LOG_LEVEL",
            "LARIBA_DATABASE_POOL_SIZE",
            "LARIBA_FAST_PATH",
        ],
    )
    def test_the_content_of_a_wrong_file_is_in_no_error(self, tmp_path: Path, variable: str) -> None:
        (tmp_path / "secret").write_text(_SECRET)

        with pytest.raises(SettingsError, match=f"^{variable}") as refusal:
            _from_file(variable, tmp_path / "secret")
        assert _SECRET not in str(refusal.value)

    def test_a_secret_that_was_taken_for_a_path_is_in_no_error(self) -> None:
        with pytest.raises(SettingsError, match=r"^LARIBA_SECRET_KEY_FILE") as refusal:
            _from_file("LARIBA_SECRET_KEY", Path(_SECRET))
        assert _SECRET not in str(refusal.value)


def _from_file(variable: str, path: Path) -> Settings:
    others = {name: value for name, value in _LEAST.items() if name != variable}
    return Settings.from_environment(others | {f"{variable}_FILE": str(path)})
