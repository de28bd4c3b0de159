"""Settings: where they come from, and what is said when one cannot be used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from clearway import Settings
from clearway.errors import SettingsInvalid
from clearway.settings import DatabaseSettings, LogSettings

DOCS = Path(__file__).parent.parent / "docs" / "settings.md"


def test_arguments_win_over_the_environment_and_that_over_the_platform(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each source fills what the one before it left open."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://platform/d")
    monkeypatch.setenv("CLEARWAY_DATABASE__POOL_SIZE", "7")
    monkeypatch.setenv("CLEARWAY_DATABASE__WAIT_TIMEOUT", "1.5")

    database = Settings(database=DatabaseSettings(pool_size=3)).database

    assert database.pool_size == 3
    assert database.wait_timeout == 1.5
    assert database.url is not None
    assert database.url.get_secret_value() == "postgresql://platform/d"
    monkeypatch.setenv("CLEARWAY_DATABASE__URL", "postgresql://ours/d")
    ours = Settings().database.url
    assert ours is not None
    assert ours.get_secret_value() == "postgresql://ours/d"


@pytest.mark.parametrize(
    ("said", "meant"), [("WARN", "warning"), ("Info", "info"), ("fatal", "critical")]
)
def test_log_level_is_understood_as_platforms_write_it(
    said: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LOG_LEVEL comes in capitals and under other names."""
    monkeypatch.setenv("LOG_LEVEL", said)

    assert Settings().logs.level == meant


def test_fastapi_env_says_whether_this_is_development(monkeypatch: pytest.MonkeyPatch) -> None:
    """FASTAPI_ENV, which `fastapi dev` sets, is our switch as well."""
    assert not Settings().service.development

    monkeypatch.setenv("FASTAPI_ENV", "development")

    assert Settings().service.development


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("DATABASE__POOL_SIZ", "3", "_POOL_SIZ is not a setting; did you mean CLEARWAY_DATABASE__"),
        ("DATABSE__POOL_SIZE", "3", "_POOL_SIZE is not a setting; did you mean CLEARWAY_DATABASE"),
        ("XYZ__Y", "3", "CLEARWAY_XYZ__Y is not a setting"),
        ("DATABASE_POOL_SIZE", "3", "did you mean CLEARWAY_DATABASE__POOL_SIZE?"),
        ("DATABASE__POOL_SIZE", "0", "greater than or equal to 1, not '0'"),
        ("DATABASE__POOL_SIZE", "many", "valid integer"),
        ("DATABASE__WAIT_TIMEOUT", "-1", "greater than 0, not '-1'"),
        ("DATABASE__WAIT_TIMEOUT", "inf", "finite"),
        ("LOGS__LEVEL", "loud", "'info', 'warning', 'error' or 'critical', not 'loud'"),
        ("REQUEST__ID_HEADER", "X Y", "CLEARWAY_REQUEST__ID_HEADER: string should match"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has the variable, what is allowed, what was given, and the fix."""
    monkeypatch.setenv(f"CLEARWAY_{variable}", value)

    with pytest.raises(SettingsInvalid, match=re.escape(said)) as raised:
        Settings()

    assert "correct the value or unset it" in str(raised.value)
    assert "[CW101]" in str(raised.value)


def test_every_problem_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to start three times to see three problems."""
    monkeypatch.setenv("CLEARWAY_NOPE__X", "1")
    monkeypatch.setenv("CLEARWAY_DATABASE__POOL_SIZE", "0")
    monkeypatch.setenv("CLEARWAY_LOGS__FORMAT", "xml")

    with pytest.raises(SettingsInvalid) as raised:
        Settings()

    assert str(raised.value).count("\n  - ") == 3


def test_a_wrong_argument_is_said_like_a_wrong_variable() -> None:
    """What is given in code is checked in the same way."""
    with pytest.raises(SettingsInvalid, match="CLEARWAY_DATABASE__POOL_SIZE"):
        Settings.model_validate({"database": {"pool_size": 0}})


def test_the_url_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the settings nor a problem with them print the password."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hunter2@h/d")
    assert "hunter2" not in repr(Settings())


@pytest.mark.parametrize(
    ("variable", "value"),
    [("DATABASE__URL__X", "hunter2"), ("DATABASE", "postgresql://u:hunter2@h/d"),
     ("DATABASE", '"postgresql://u:hunter2@h/d"')],
)  # fmt: skip
def test_a_url_in_the_wrong_variable_is_never_shown(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the variable and keeps the password."""
    monkeypatch.setenv(f"CLEARWAY_{variable}", value)

    with pytest.raises(SettingsInvalid, match="CLEARWAY_DATABASE") as raised:
        Settings()

    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("LOG_LEVEL", "trace"), ("LOG_LEVEL", "5"), ("LOG_LEVEL", ""), ("CLEARWAY_PORT", "tcp://x:80"),
     ("CLEARWAY_SERVICE_HOST", "10.0.0.1"), ("CLEARWAY_PORT_80_TCP_ADDR", "10.0.0.1")],
)  # fmt: skip
def test_what_was_not_written_for_us_stops_no_start(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A level of another tool's, and what Kubernetes sets beside a Service called clearway."""
    monkeypatch.setenv(variable, value)

    assert Settings().logs.level == "info"


def test_every_setting_is_documented_with_its_default() -> None:
    """docs/settings.md has a row for each field, with the environment name and the default."""
    text = DOCS.read_text()
    for group, info in Settings.model_fields.items():
        tree = info.annotation
        assert isinstance(tree, type)
        assert issubclass(tree, BaseModel)
        for field, detail in tree.model_fields.items():
            assert detail.description, f"{group}.{field} has no docstring"
            name = f"CLEARWAY_{group}__{field}".upper()
            meaning = re.escape(" ".join(detail.description.split()))
            assert re.search(rf"^\| `{name}` \| .+ \| {meaning} \|$", text, re.MULTILINE), name


def test_settings_do_not_change() -> None:
    """The tree is frozen: what was checked stays true."""
    with pytest.raises(ValueError, match="frozen"):
        LogSettings().level = "debug"
