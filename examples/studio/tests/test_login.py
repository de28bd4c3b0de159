"""Logging in over HTTP."""

from __future__ import annotations

import pytest

from studio.passwords import hash_password, matches
from studio.tests.conftest import Studio


@pytest.fixture
def user(studio: Studio, unique: str) -> str:
    """Return the name of a user of this test, with the password `right`."""
    sql = "INSERT INTO users (name, password_hash) VALUES ($1, $2)"
    studio.query(sql, unique, hash_password("right"))
    return unique


def _failed(studio: Studio, name: str) -> int:
    return int(studio.query("SELECT failed_logins FROM users WHERE name = $1", name))


def test_a_refused_login_is_counted_although_it_is_a_401(studio: Studio, user: str) -> None:
    """`keep` commits the count; the next success tells of it and begins anew."""
    for attempt in (1, 2):
        refused = studio.http.post("/login", json={"name": user, "password": "wrong"})
        assert refused.status_code == 401
        assert _failed(studio, user) == attempt
    accepted = studio.http.post("/login", json={"name": user, "password": "right"})
    assert accepted.json() == {"name": user, "failed_before": 2, "last_login_at": None}
    assert _failed(studio, user) == 0
    again = studio.http.post("/login", json={"name": user, "password": "right"}).json()
    assert again["failed_before"] == 0
    assert again["last_login_at"] is not None


def test_nobody_learns_who_exists(studio: Studio, user: str) -> None:
    """An unknown name is refused like a wrong password, after a hash of its own."""
    unknown = studio.http.post("/login", json={"name": f"no-{user}", "password": "x"})
    wrong = studio.http.post("/login", json={"name": user, "password": "x"})
    bodies = [answer.json() | {"request_id": ""} for answer in (unknown, wrong)]
    assert unknown.status_code == wrong.status_code == 401
    assert bodies[0] == bodies[1]
    for answer in (unknown, wrong):
        assert "threads;dur=" in answer.headers["Server-Timing"]


def test_the_demo_user_is_there(studio: Studio) -> None:
    """The demo says `demo` and `demo`, and it works."""
    answer = studio.http.post("/login", json={"name": "demo", "password": "demo"})
    assert answer.status_code == 200


def test_a_password_never_comes_back(studio: Studio) -> None:
    """Not even in the answer that refuses its length."""
    secret = "hunter2" * 200
    answer = studio.http.post("/login", json={"name": "demo", "password": secret})
    assert answer.status_code == 422
    assert "hunter2" not in answer.text


def test_a_hash_that_is_damaged_matches_nothing() -> None:
    """A broken row in the database refuses the login instead of failing it."""
    assert not matches("$argon2id$broken", "right")
    assert not matches(None, "")
    assert matches(hash_password("right"), "right")
