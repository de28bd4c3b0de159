"""A real server whose resource cannot open."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support.process import TESTS, free_port


@pytest.mark.parametrize("lifespan", ["auto", "on"])
def test_a_service_whose_resource_fails_does_not_come_up(lifespan: str) -> None:
    """The process ends with uvicorn's code for it, and stderr names the resource and its trace."""
    command = [sys.executable, "-m", "uvicorn", "apps.unopened:app", "--lifespan", lifespan]
    result = subprocess.run(
        [*command, "--port", str(free_port())],
        capture_output=True,
        check=False,
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        text=True,
        timeout=40,
    )

    assert result.returncode == 3
    assert "[CW106] resource apps.unopened:classifier could not be opened" in result.stderr
    assert "FileNotFoundError" in result.stderr
    assert "needed by classify (/classify)" in result.stderr
    assert 'open("/nowhere/model.bin")' in result.stderr  # the line of the traceback
