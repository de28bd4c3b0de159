"""A client that knows what it asked for, and notices what it did not get."""

from __future__ import annotations

import asyncio
import io
import itertools
import time
from types import TracebackType
from typing import Any, Self

import aiohttp


class Visitor:
    """Calls one service, each request under an id of its own.

    Args:
        url: Where the service is.

    Attributes:
        ids: The request ids that were sent.
        faults: What was not as it should be, in words.
    """

    def __init__(self, url: str) -> None:
        self.ids: list[str] = []
        self.faults: list[str] = []
        self._numbers = itertools.count(1)
        self._http = aiohttp.ClientSession(
            url, connector=aiohttp.TCPConnector(limit=64), timeout=aiohttp.ClientTimeout(60)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.close()

    def expect(self, what: bool, otherwise: str) -> None:
        """Note a fault unless something is true."""
        if not what:
            self.faults.append(otherwise)

    async def get(self, path: str, status: int = 200) -> bytes:
        """Return the body of a GET."""
        return await self._call("GET", path, status)

    async def get_when_made(self, path: str, within: float) -> bytes:
        """Return the body of a GET of what is being made: a 404 that says when to come again.

        Args:
            path: Of what is being made.
            within: Seconds to come again for; then the last 404 is a fault.
        """
        patience = time.monotonic() + within
        while time.monotonic() < patience:
            status, again, content = await self._ask("GET", path)
            if status != 404 or again is None:
                self._expect_status("GET", path, status, 200, content)
                return content
            await asyncio.sleep(0.1)
        return await self.get(path)

    async def timed_get(self, path: str) -> float:
        """Return the seconds that a GET took."""
        started = time.perf_counter()
        await self.get(path)
        return time.perf_counter() - started

    async def post(self, path: str, body: object, status: int) -> bytes:
        """Return the answer to a JSON body."""
        return await self._call("POST", path, status, json=body)

    async def upload(self, path: str, field: str, data: bytes, status: int) -> bytes:
        """Return the answer to a file."""
        form = aiohttp.FormData()
        form.add_field(field, io.BytesIO(data), filename="upload")
        return await self._call("POST", path, status, data=form)

    async def _call(self, method: str, path: str, expected: int, **body: Any) -> bytes:
        status, _, content = await self._ask(method, path, **body)
        self._expect_status(method, path, status, expected, content)
        return content

    async def _ask(self, method: str, path: str, **body: Any) -> tuple[int, str | None, bytes]:
        """Return status, Retry-After and body."""
        id = f"smoke-{next(self._numbers)}"
        self.ids.append(id)
        headers = {"X-Request-ID": id}
        async with self._http.request(method, path, headers=headers, **body) as answer:
            content = await answer.read()
        self.expect(answer.headers.get("X-Request-ID") == id, f"{method} {path} lost its id {id}")
        return answer.status, answer.headers.get("Retry-After"), content

    def _expect_status(
        self, method: str, path: str, status: int, expected: int, content: bytes
    ) -> None:
        self.expect(
            status == expected,
            f"{method} {path} answered {status}, not {expected}: {content[:300]!r}",
        )
