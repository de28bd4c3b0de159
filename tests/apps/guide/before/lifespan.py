"""What is opened once, in `app.state`, by hand and in the order in which it is written down."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

from apps.guide.work import Client, load_model


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open both, and close what needs it."""
    app.state.http = Client()
    await app.state.http.connect()
    app.state.model = load_model(os.environ["MODEL"])
    yield
    await app.state.http.aclose()


app = FastAPI(lifespan=lifespan)


@app.get("/classify")
async def classify(request: Request) -> str:
    """Use the model."""
    return f"a {request.app.state.model}"
