"""An app whose resource cannot open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import FastAPI

from clearway import Clearway, resource

app = FastAPI()
Clearway(app)


@resource
async def classifier() -> AsyncIterator[str]:
    """Fail, as a file that is missing does."""
    with open("/nowhere/model.bin") as file:
        yield file.read()


@app.get("/classify")
async def classify(model: Annotated[str, classifier]) -> str:
    """Take what cannot be opened."""
    return model
