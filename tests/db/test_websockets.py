"""A unit of work for each message of a WebSocket, on a real server and a real client."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from clearway import Clearway
from clearway.db.database import session_dependency
from clearway.errors import NotOpen
from db.roads import settings_for
from db.schema import Item, names
from db.test_unit_cancel import backends
from support.listening import OLD, listening
from support.waiting import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(OLD, reason="what this uvicorn asks of websockets is deprecated there"),
]


def talking(url: str) -> tuple[FastAPI, Clearway]:
    """Return an app that stores what each message says, on a pool of one."""
    app = FastAPI()
    road = Clearway(app, settings_for(url, pool_size=1, max_overflow=0))

    @app.websocket("/ws")
    async def socket(ws: WebSocket) -> None:
        await ws.accept()
        while True:
            name = await ws.receive_text()
            try:
                async with road.db.session() as session:
                    await session.execute(insert(Item).values(name=f"{name} one"))
                    await session.execute(insert(Item).values(name=f"{name} two"))
                    if name == "slow":
                        await session.execute(text("select pg_sleep(0.5)"))
            except IntegrityError:
                await ws.send_text("refused")
            else:
                await ws.send_text("stored")

    return app, road


async def test_each_message_commits_or_rolls_back_by_itself(table: str) -> None:
    """Of many messages over ten sockets on a pool of one, only those that fail store nothing."""
    app, road = talking(table)

    async def talk(port: int, number: int) -> list[str | bytes]:
        async with connect(f"ws://127.0.0.1:{port}/ws") as ws:
            said: list[str | bytes] = []
            for name in [f"{number} a", f"{number} a", f"{number} b"]:
                await ws.send(name)
                said.append(await ws.recv())
            return said

    async with listening(app) as server:
        answers = await asyncio.gather(*(talk(server.port, number) for number in range(10)))

    assert answers == [["stored", "refused", "stored"]] * 10
    assert len(await names(table)) == 40
    assert road.lanes["requests"].snapshot().in_use == 0


async def test_an_open_socket_holds_no_connection(table: str) -> None:
    """Between its messages the pool is everybody's."""
    app, road = talking(table)

    async with listening(app) as server, connect(f"ws://127.0.0.1:{server.port}/ws") as ws:
        await ws.send("first")
        assert await ws.recv() == "stored"
        assert road.lanes["db"].snapshot().in_use == 0
        assert await backends(table) == ["idle"]
        await ws.send("second")
        assert await ws.recv() == "stored"


async def test_a_socket_that_is_lost_in_a_message_stores_all_of_it(table: str) -> None:
    """The handler learns of it when it answers, after the block has committed."""
    app, road = talking(table)

    async with listening(app) as server:
        ws = await connect(f"ws://127.0.0.1:{server.port}/ws")
        await ws.send("slow")
        await until(lambda: road.lanes["db"].snapshot().in_use == 1)
        ws.transport.abort()
        await until(lambda: road.lanes["requests"].snapshot().in_use == 0)
        assert road.lanes["db"].snapshot().in_use == 0

    assert await names(table) == ["slow one", "slow two"]


async def test_a_message_that_ends_the_socket_rolls_back(table: str) -> None:
    """An exception that goes through the block stores nothing, and the next socket is served."""
    app = FastAPI()
    road = Clearway(app, settings_for(table, pool_size=1, max_overflow=0))

    @app.websocket("/ws")
    async def socket(ws: WebSocket) -> None:
        await ws.accept()
        async with road.db.session() as session:
            await session.execute(insert(Item).values(name=await ws.receive_text()))
            await ws.send_text(await ws.receive_text())
            raise WebSocketDisconnect

    async with listening(app) as server:
        for _ in range(2):
            async with connect(f"ws://127.0.0.1:{server.port}/ws") as ws:
                await ws.send("row")
                await ws.send("on")
                assert await ws.recv() == "on"
                with pytest.raises(ConnectionClosed):
                    await ws.recv()
        await until(lambda: road.lanes["db"].snapshot().in_use == 0)

    assert await names(table) == []


async def test_a_socket_that_asks_for_the_requests_session_is_told_what_to_use(table: str) -> None:
    """No response ends a transaction of a socket."""
    app = FastAPI()
    Clearway(app, settings_for(table, pool_size=1, max_overflow=0))

    @app.websocket("/ws")
    async def socket(ws: WebSocket) -> None:
        await ws.accept()
        try:
            await session_dependency()
        except NotOpen as error:
            await ws.send_text(error.fix)

    async with listening(app) as server, connect(f"ws://127.0.0.1:{server.port}/ws") as ws:
        assert "road.db.session()" in str(await ws.recv())
