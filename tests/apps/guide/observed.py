"""The recipe that the variable `RECIPE` names, as it stands in `before`, and the one line."""

from __future__ import annotations

import os
from importlib import import_module

from fastapi import FastAPI

from clearway import Clearway

recipe = import_module(f"apps.guide.before.{os.environ['RECIPE']}")
app: FastAPI = recipe.app
road = Clearway(app)


@app.get("/lanes")
async def lanes() -> dict[str, dict[str, float]]:
    """Say how the lanes stand, as an operator may want it."""
    return {
        name: {
            "in_use": (now := lane.snapshot()).in_use,
            "waiting": now.waiting,
            "admitted": now.admitted,
            "longest_hold": now.holds.longest,
        }
        for name, lane in road.lanes.items()
    }
