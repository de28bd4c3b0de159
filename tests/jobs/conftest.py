"""A database for jobs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from clearway.dev.postgres import EmbeddedPostgres
from support.worker import Works


@pytest.fixture
def works(
    postgres: EmbeddedPostgres,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Works:
    """Return a database with the table `effect`, and a folder for marks."""
    works = Works(database_url, tmp_path)
    monkeypatch.setenv("MARKS", str(works.marks))
    from apps.works import DDL

    subprocess.run([postgres.psql, database_url, "-qXc", DDL], check=True, timeout=20)
    return works
