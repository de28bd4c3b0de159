"""A service whose every answer leaves a light task behind that appends to the file `LATER`."""

from __future__ import annotations

import asyncio
import os

from fastapi import FastAPI

from clearway import Background, Clearway, Settings

app = FastAPI()
road = Clearway(app, Settings.model_validate({"background": {"drain_within": 30}}))


def append(number: int) -> None:
    """Write one line."""
    with open(os.environ["LATER"], "a", encoding="ascii") as file:
        file.write(f"{number}\n")


async def notify(number: int) -> None:
    """Take a while, then write."""
    await asyncio.sleep(0.1)
    await asyncio.to_thread(append, number)


@app.get("/{number}")
async def read(number: int, background: Background) -> int:
    """Answer at once."""
    background.add(notify, number)
    return number
