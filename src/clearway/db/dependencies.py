"""How a request asks for a session."""

from __future__ import annotations

from clearway.core.journey import Journey, current_journey
from clearway.errors import NotOpen


def journey_of_request() -> Journey:
    """Return the journey whose response ends the transaction.

    Raises:
        NotOpen: There is none.
    """
    journey = current_journey()
    if journey is None or journey.kind == "websocket":
        raise NotOpen(
            "a session was asked for outside a request that Clearway sees, where no response "
            "ends its transaction",
            fix="is there a Clearway(app), and not CLEARWAY=off? Outside of a request, and for "
            "each message of a WebSocket: async with road.db.session() as session",
        )
    return journey
