"""Journeys, their ledgers, and what hangs on them."""

from __future__ import annotations

import asyncio

import pytest

from clearway.core.journey import Journey, Ledger, current_journey, travelling

pytestmark = pytest.mark.anyio


def test_a_ledger_adds_up_waits_and_holds_by_lane() -> None:
    """Waits and holds of one lane are summed, and lanes are kept apart."""
    ledger = Ledger()
    ledger.wait("db", 0.5)
    ledger.wait("db", 0.25)
    ledger.hold("db", 2.0)
    ledger.hold("threads", 1.0)

    entries = dict(ledger)

    assert (entries["db"].waits, entries["db"].waited) == (2, 0.75)
    assert (entries["db"].holds, entries["db"].held) == (1, 2.0)
    assert (entries["threads"].waits, entries["threads"].held) == (0, 1.0)


async def test_a_journey_is_current_inside_its_block_and_in_its_tasks() -> None:
    """Child tasks see the journey; outside of the block there is none."""
    journey = Journey("script")

    async def look() -> Journey | None:
        return current_journey()

    with travelling(journey):
        seen = await asyncio.create_task(look())

    assert seen is journey
    assert current_journey() is None


async def test_settling_runs_each_hook_once_and_rolls_back_after_a_failure() -> None:
    """The first failure is raised, and nothing commits after it."""
    journey = Journey("request")
    calls: list[tuple[str, bool]] = []

    async def first(commit: bool) -> None:
        calls.append(("first", commit))
        raise ValueError("no")

    async def second(commit: bool) -> None:
        calls.append(("second", commit))

    journey.before_response.extend([first, second])

    with pytest.raises(ValueError, match="no"):
        await journey.settle(commit=True)
    await journey.settle(commit=True)

    assert calls == [("first", True), ("second", False)]


@pytest.mark.parametrize(("verdict", "otherwise"), [("keep", False), ("fail", True)])
def test_keep_and_fail_overrule_the_status(verdict: str, otherwise: bool) -> None:
    """`keep` commits and `fail` rolls back, whatever the status says."""
    journey = Journey("request")
    assert journey.wants_commit(otherwise) is otherwise

    getattr(journey, verdict)()

    assert journey.wants_commit(otherwise) is not otherwise


def test_ids_are_distinct() -> None:
    """Two journeys never share an id."""
    assert len({Journey("request").id for _ in range(1000)}) == 1000
