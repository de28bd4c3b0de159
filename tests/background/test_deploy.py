"""A deploy: SIGTERM to a real server while tasks run and wait."""

from __future__ import annotations

from pathlib import Path

import httpx2

from support.process import uvicorn


def test_sigterm_loses_no_background_task(tmp_path: Path) -> None:
    """Whatever was answered 200 has its task done, each once, when the process has ended."""
    later = tmp_path / "later"
    with uvicorn("apps.later:app", env={"LATER": str(later)}) as service:
        with httpx2.Client(base_url=service.url) as client:
            answered = [n for n in range(100) if client.get(f"/{n}").status_code == 200]
        service.stop(seconds=50)

    assert len(answered) == 100
    assert sorted(int(line) for line in later.read_text().split()) == answered
