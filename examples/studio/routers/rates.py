"""Exchange rates: asked of another service, which may be slow, down, or talk nonsense."""

from __future__ import annotations

import aiohttp
from fastapi import APIRouter
from pydantic import ValidationError

from clearway import HttpClient
from studio.problems import Problem
from studio.schemas import Rates
from studio.settings import studio_settings

router = APIRouter(prefix="/rates", tags=["rates"])


@router.get("")
async def rates(http: HttpClient) -> Rates:
    """Return today's exchange rates. A fault of the other side is a 502 or a 504, not a 500."""
    settings = studio_settings()
    if settings.rates_url is None:
        raise Problem(503, "nobody knows the rates: set STUDIO_RATES_URL")
    # Shorter than `outbound.timeout`: one service that hangs must not fill the lane for all.
    bound = aiohttp.ClientTimeout(total=settings.rates_timeout)
    try:
        async with http.get(str(settings.rates_url), timeout=bound) as answer:
            answer.raise_for_status()
            return Rates.model_validate_json(await answer.read())
    except TimeoutError as error:
        seconds = f"{settings.rates_timeout:g} s"
        raise Problem(504, f"the rates did not come within {seconds}", retry_after=5) from error
    except aiohttp.ClientError as error:
        raise Problem(502, "the service that knows the rates has failed", retry_after=5) from error
    except ValidationError as error:
        raise Problem(502, "the rates that came are none") from error
