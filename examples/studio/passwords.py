"""Hash passwords and check them with argon2id: 64 MiB and some 50 ms each, by design."""

from __future__ import annotations

import secrets
from functools import lru_cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

_hasher = PasswordHasher()


def hash_password(password: str) -> str:
    """Return the hash to store."""
    return _hasher.hash(password)


def matches(stored: str | None, password: str) -> bool:
    """Say whether a password fits a stored hash.

    Args:
        stored: None for a user who does not exist: that takes as long as a wrong password, so
            that nobody learns who exists by a stopwatch.
        password: What was typed.
    """
    try:
        _hasher.verify(stored or _nobody(), password)
    except (VerificationError, InvalidHashError):
        return False
    return stored is not None


@lru_cache(maxsize=1)
def _nobody() -> str:
    """Return the hash of a password that nobody knows, with the parameters of all others."""
    return hash_password(secrets.token_hex())
