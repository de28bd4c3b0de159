"""What is opened once, each by itself, typed, in the order in which they need each other."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import FastAPI

from apps.guide.work import Client, load_model
from clearway import Clearway, offload, resource

app = FastAPI()
road = Clearway(app)


@resource
async def http() -> AsyncIterator[Client]:
    """Open the client."""
    client = Client()
    await client.connect()
    yield client
    await client.aclose()


@resource
async def model(http: Annotated[Client, http]) -> AsyncIterator[str]:
    """Load the model, which needs the client to fetch what is missing."""
    yield await offload.thread(load_model, os.environ["MODEL"])


@app.get("/classify")
async def classify(model: Annotated[str, model]) -> str:
    """Use the model."""
    return f"a {model}"
