"""The studio's own settings; Clearway reads its own from CLEARWAY_* and DATABASE_URL."""

from __future__ import annotations

from functools import lru_cache

from pydantic import Field, HttpUrl
from pydantic_settings import BaseSettings, SettingsConfigDict


class StudioSettings(BaseSettings):
    """What can be set from outside, as `STUDIO_<FIELD>`."""

    model_config = SettingsConfigDict(
        env_prefix="STUDIO_", frozen=True, use_attribute_docstrings=True
    )

    max_photo_bytes: int = Field(default=40_000_000, ge=1)
    """Largest photo that is taken, in bytes."""
    max_csv_bytes: int = Field(default=100_000_000, ge=1)
    """Largest file of payments that is taken, in bytes."""
    photo_timeout: float = Field(default=20.0, gt=0, le=300)
    """Seconds for the thumbnails of one photo; then its process is killed."""
    import_timeout: float = Field(default=60.0, gt=0, le=300)
    """Seconds for checking one file of payments; then its process is killed."""
    paper_timeout: float = Field(default=20.0, gt=0, le=300)
    """Seconds for the PDF of one invoice; then its process is killed."""
    rates_url: HttpUrl | None = None
    """Who knows the exchange rates; None for nobody."""
    rates_timeout: float = Field(default=5.0, gt=0, le=60)
    """Seconds for their whole answer."""
    webhook_url: HttpUrl | None = None
    """Who is told of new invoices; None for nobody."""
    reminder_url: HttpUrl | None = None
    """Who sends reminders to customers; None for nobody."""
    demo_user: bool = False
    """Add the user `demo` with the password `demo` at the start. Never in production."""


@lru_cache(maxsize=1)
def studio_settings() -> StudioSettings:
    """Return the settings, read once."""
    return StudioSettings()
