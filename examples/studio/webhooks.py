"""Tell others what happened: after the commit, and without keeping anybody waiting."""

from __future__ import annotations

import aiohttp

from studio.schemas import Webhook


async def notify_webhook(http: aiohttp.ClientSession, url: str, webhook: Webhook) -> None:
    """Tell it once, as a background task: a crash may lose it. What must arrive is a job.

    Args:
        http: What `HttpClient` gave to the endpoint; it stays open until the last task ends.
        url: Who is told.
        webhook: What.

    Raises:
        aiohttp.ClientError: Nobody was told; the log says so under the request's id.
    """
    async with http.post(url, json=webhook.model_dump(mode="json")) as answer:
        answer.raise_for_status()
