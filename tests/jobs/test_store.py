"""The statements of the store, one contract each, on a real database."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import NullPool, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from clearway.dev.postgres import EmbeddedPostgres
from clearway.errors import StoreUnfit
from clearway.jobs.store import CRASHES, JobName, Order, Store, schema_sql
from jobs.conftest import as_sqlalchemy

pytestmark = pytest.mark.anyio

STORE = Store("clearway", "app")
OTHER = Store("clearway", "other")
NAME = "main:work"


@pytest.fixture
async def engine(store_url: str, anyio_backend: object) -> AsyncIterator[AsyncEngine]:
    """Return an engine in AUTOCOMMIT, as workers have it."""
    engine = create_async_engine(
        as_sqlalchemy(store_url), poolclass=NullPool, isolation_level="AUTOCOMMIT"
    )
    yield engine
    await engine.dispose()


@pytest.fixture
async def on(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Return one connection of it."""
    async with engine.connect() as connection:
        yield connection


async def enqueue(
    on: AsyncConnection,
    count: int = 1,
    *,
    name: str = NAME,
    queue: str = "default",
    body: str = "loop",
    delay: float = 0.0,
    key: str | None = None,
    store: Store = STORE,
) -> list[int]:
    """Insert jobs whose argument `n` counts from 0."""
    columns: dict[str, list[Any]] = {
        "names": [name] * count,
        "queues": [queue] * count,
        "bodies": [body] * count,
        "arguments": [json.dumps({"n": n}) for n in range(count)],
        "delays": [delay] * count,
        "keys": [key] * count,
        "windows": [None] * count,
    }
    return await store.enqueue(on, columns, request_id="r-1", traceparent="00-t-s-01")


async def claim(
    on: AsyncConnection,
    most: int = 100,
    *,
    body: str = "loop",
    names: Collection[str] = (NAME,),
    queues: Collection[str] = (),
    lease: float = 60.0,
    alone: bool = False,
    store: Store = STORE,
) -> list[Order]:
    """Claim with a lease that lasts as long as any test."""
    return await store.claim(
        on, body, names=names, queues=queues, most=most, lease=lease, alone=alone
    )


async def select(on: AsyncConnection, what: str) -> list[dict[str, Any]]:
    """Return the rows of a query."""
    return [dict(row) for row in (await on.execute(text(f"SELECT {what}"))).mappings()]


async def rows(on: AsyncConnection, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table of the store by its first column."""
    return await select(on, f"* FROM clearway.{table} ORDER BY 1")


async def counts(on: AsyncConnection, table: str) -> dict[str, int]:
    """Return how many rows of a table each service has."""
    found = await select(on, f"service, count(*) AS n FROM clearway.{table} GROUP BY 1")
    return {row["service"]: row["n"] for row in found}


async def run(on: AsyncConnection, statement: str) -> None:
    """Run a statement of the test's own."""
    await on.execute(text(statement))


async def expire(on: AsyncConnection) -> None:
    """Let every lease be over since long."""
    await run(on, "UPDATE clearway.jobs SET lease_until = now() - interval '1 minute'")


def forged(orders: list[Order]) -> list[Order]:
    """Return the same orders with tokens that nobody gave."""
    return [
        Order(**{name: getattr(one, name) for name in Order.__slots__} | {"token": uuid4()})
        for one in orders
    ]


def ids(orders: list[Order]) -> list[int]:
    """Return the ids of orders."""
    return [order.id for order in orders]


# Claims


async def test_a_claim_takes_the_oldest_and_no_more_than_it_asks_for(on: AsyncConnection) -> None:
    """Jobs of a queue are claimed in the order in which they are due."""
    made = await enqueue(on, 5)
    await run(on, f"UPDATE clearway.jobs SET run_at = now() - interval '1 h' WHERE id = {made[3]}")

    assert ids(await claim(on, 2)) == [made[0], made[3]]
    assert ids(await claim(on)) == [made[1], made[2], made[4]]
    assert await claim(on) == []


async def test_a_claim_tells_all_that_a_run_needs(on: AsyncConnection) -> None:
    """It counts the attempt, gives a token, and returns the arguments as they were written."""
    (id,) = await enqueue(on)
    (order,) = await claim(on)

    assert (order.id, order.name, order.queue, order.arguments) == (id, NAME, "default", '{"n": 0}')
    assert (order.attempt, order.crashes) == (1, 0)
    assert (order.request_id, order.traceparent) == ("r-1", "00-t-s-01")
    assert order.enqueued_at.tzinfo is not None
    (row,) = await select(on, "*, lease_until - now() AS left FROM clearway.jobs")
    assert (row["token"], row["attempts"]) == (order.token, 1)
    assert timedelta(0) < row["left"] <= timedelta(seconds=60)


async def test_what_is_due_later_is_not_claimed(on: AsyncConnection) -> None:
    """A delay holds a job back until it is over."""
    (id,) = await enqueue(on, delay=3600)
    assert await claim(on) == []

    await run(on, "UPDATE clearway.jobs SET run_at = now()")
    assert ids(await claim(on)) == [id]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"queues": ["a"]}, {"a"}),
        ({"queues": ["a", "c"]}, {"a", "c"}),
        ({"queues": ()}, {"a", "b", "c"}),
        ({"queues": ["d"]}, set()),
        ({"names": ["main:other"]}, set()),
        ({"names": []}, set()),
        ({"body": "process"}, {"p"}),
        ({"store": OTHER}, set()),
    ],
)
async def test_a_claim_takes_only_what_its_worker_can_run(
    on: AsyncConnection, wanted: dict[str, Any], found: set[str]
) -> None:
    """Queues, names, the kind of slot and the service all narrow it down."""
    for queue in ("a", "b", "c"):
        await enqueue(on, queue=queue)
    await enqueue(on, queue="p", body="process")

    assert {order.queue for order in await claim(on, **wanted)} == found


async def test_a_limit_counts_for_all_queues_together(on: AsyncConnection) -> None:
    """A claim of three from four queues takes three, and no queue starves in the long run."""
    for queue in "abcd":
        await enqueue(on, 50, queue=queue)

    first = [len(await claim(on, 3)) for _ in range(40)]
    assert first == [3] * 40
    taken = "queue FROM clearway.jobs WHERE token IS NOT NULL"
    assert len(await select(on, taken)) == 120
    assert len(await select(on, f"DISTINCT {taken}")) > 1


async def test_what_has_crashed_twice_is_claimed_only_alone(on: AsyncConnection) -> None:
    """A job that may take its process down has no neighbour in it."""
    fresh, once, twice = await enqueue(on, 3)
    await run(on, f"UPDATE clearway.jobs SET crashes = 1 WHERE id = {once}")
    await run(on, f"UPDATE clearway.jobs SET crashes = 2 WHERE id = {twice}")

    assert ids(await claim(on)) == [fresh, once]
    assert ids(await claim(on, alone=True)) == [twice]


async def test_in_a_process_of_its_own_a_job_is_alone_anyway(on: AsyncConnection) -> None:
    """Bodies `process` are claimed together, however often they have crashed."""
    made = await enqueue(on, 2, body="process")
    await run(on, f"UPDATE clearway.jobs SET crashes = 2 WHERE id = {made[1]}")

    assert ids(await claim(on, body="process")) == made


async def test_a_claim_passes_by_what_another_is_about_to_take(engine: AsyncEngine) -> None:
    """Nobody waits for the lock of a job: the next one is as good."""
    async with engine.connect() as on:
        first, second = await enqueue(on, 2)
        async with engine.connect() as other:
            other = await other.execution_options(isolation_level="READ COMMITTED")
            async with other.begin():
                assert ids(await claim(other, 1)) == [first]
                async with asyncio.timeout(20):
                    assert ids(await claim(on, 2)) == [second]


async def test_twenty_claimers_take_no_job_twice(engine: AsyncEngine) -> None:
    """Whatever they claim at one time, each job goes to one, and all are taken in the end."""
    async with engine.connect() as on:
        made = await enqueue(on, 150, queue="a") + await enqueue(on, 150, queue="b")

    async def work(most: int) -> list[int]:
        taken: list[int] = []
        async with engine.connect() as connection:
            while orders := await claim(connection, most):
                taken += ids(orders)
        return taken

    taken = await asyncio.gather(*(work(1 + n % 7) for n in range(20)))

    assert sorted(id for mine in taken for id in mine) == made


# The end of a run


async def test_a_completed_job_is_moved_to_what_is_done(on: AsyncConnection) -> None:
    """It leaves the hot table, keeps its id, and frees its key."""
    (id,) = await enqueue(on, key="k")
    orders = await claim(on)

    assert await STORE.complete(on, orders) == {id}
    assert await rows(on, "jobs") == await rows(on, "job_keys") == []
    (done,) = await rows(on, "jobs_done")
    assert (done["id"], done["name"], done["attempts"], done["request_id"]) == (id, NAME, 1, "r-1")
    assert done["started_at"] <= done["finished_at"]
    assert await STORE.complete(on, orders) == set()


async def test_a_retried_job_waits_with_its_error(on: AsyncConnection) -> None:
    """It is claimed again after its delay, as the second attempt."""
    soon, late = await enqueue(on, 2)
    orders = await claim(on)

    assert await STORE.retry(on, orders, [0.0, 3600.0], ["E: a", "E: b"]) == {soon, late}
    assert [row["last_error"] for row in await rows(on, "jobs")] == ["E: a", "E: b"]
    (again,) = await claim(on)
    assert (again.id, again.attempt) == (soon, 2)


async def test_a_buried_job_is_in_the_failure_queue(on: AsyncConnection) -> None:
    """With its error, its traceback and its arguments; its key is free again."""
    (id,) = await enqueue(on, key="k", queue="pdf", body="process")
    orders = await claim(on, body="process")

    assert await STORE.bury(on, orders, ["E: no"], ["Traceback ..."]) == {id}
    assert await rows(on, "jobs") == await rows(on, "job_keys") == []
    (failed,) = await rows(on, "jobs_failed")
    assert (failed["id"], failed["reason"], failed["error"]) == (id, "failed", "E: no")
    assert (failed["traceback"], failed["queue"], failed["body"]) == (
        "Traceback ...", "pdf", "process",
    )  # fmt: skip
    assert (failed["attempts"], failed["arguments"]) == (1, {"n": 0})


async def test_a_job_that_is_handed_back_has_cost_nothing(on: AsyncConnection) -> None:
    """A deploy burns no attempt: the next claim is the first again."""
    (id,) = await enqueue(on)
    orders = await claim(on)

    assert await STORE.hand_back(on, orders) == {id}
    (again,) = await claim(on)
    assert (again.id, again.attempt) == (id, 1)


async def test_a_lease_is_renewed(on: AsyncConnection) -> None:
    """It lasts from now on; what nobody renews lapses."""
    _, forgotten = await enqueue(on, 2)
    orders = await claim(on)
    await expire(on)

    assert await STORE.renew(on, orders[:1], 60) == {orders[0].token}
    assert [id for id, _ in await STORE.lapsed(on, 0.0)] == [forgotten]


async def test_a_renewal_waits_for_no_lock(engine: AsyncEngine, on: AsyncConnection) -> None:
    """A run that is about to complete holds its row; leases beside it are renewed, none lost."""
    completing, beside = await enqueue(on, 2)
    orders = await claim(on)
    await expire(on)
    async with engine.execution_options(isolation_level="READ COMMITTED").begin() as other:
        assert await STORE.complete(other, orders[:1]) == {completing}
        async with asyncio.timeout(10):
            assert await STORE.renew(on, orders, 60) == {order.token for order in orders}
            assert await STORE.lapsed(on, 0.0) == []  # who holds the row may be about to commit

    assert await STORE.renew(on, orders, 60) == {orders[1].token}
    assert await STORE.complete(on, orders[1:]) == {beside}


async def test_jobs_that_wait_follow_a_changed_run_in(on: AsyncConnection) -> None:
    """They were enqueued by another version, and are claimed as the present one runs them."""
    waiting, later = await enqueue(on, 1, body="process") + await enqueue(on, 1, delay=60)
    foreign = await enqueue(on, 1, body="process", store=OTHER)
    assert await claim(on) == []

    await STORE.adopt(on, [JobName(NAME, "default", "loop")])
    assert [order.id for order in await claim(on)] == [waiting]

    await STORE.adopt(on, [JobName(NAME, "default", "process")])
    found = {row["id"]: row["body"] for row in await select(on, "id, body FROM clearway.jobs")}
    assert found == {waiting: "loop", later: "process", foreign[0]: "process"}


async def test_an_id_that_history_has_already_stops_no_completion(on: AsyncConnection) -> None:
    """A sequence that was not carried over to a new server gives ids twice."""
    first = await enqueue(on, 1)
    await STORE.complete(on, await claim(on))
    await run(on, "SELECT setval('clearway.jobs_id_seq', 1, false)")

    assert await enqueue(on, 1) == first
    assert await STORE.complete(on, await claim(on)) == set(first)


async def test_a_twin_in_an_open_transaction_keeps_no_job_from_its_end(
    engine: AsyncEngine, on: AsyncConnection
) -> None:
    """Who enqueues the same again gets the holder's id, and locks nothing that it needs."""
    (holder,) = await enqueue(on, 1, key="k")
    orders = await claim(on)
    async with engine.execution_options(isolation_level="READ COMMITTED").begin() as twin:
        assert await enqueue(twin, 1, key="k") == [holder]
        async with asyncio.timeout(10):
            assert await STORE.complete(on, orders) == {holder}

    assert await enqueue(on, 1, key="k") != [holder]


async def test_cleaning_waits_for_no_lock(engine: AsyncEngine, on: AsyncConnection) -> None:
    """A row that somebody holds is left for the next time."""
    await run(
        on, "INSERT INTO clearway.job_keys VALUES ('app', 'a', 1, now()), ('app', 'b', 2, now())"
    )
    async with engine.execution_options(isolation_level="READ COMMITTED").begin() as other:
        await run(other, "SELECT FROM clearway.job_keys WHERE key = 'a' FOR UPDATE")
        async with asyncio.timeout(10):
            await STORE.clean(on, keep_done=0, keep_failed=3600, most=100)

    assert [row["key"] for row in await select(on, "key FROM clearway.job_keys")] == ["a"]


async def test_writing_for_nothing_changes_nothing(on: AsyncConnection) -> None:
    """An empty batch is a batch."""
    assert await STORE.complete(on, []) == await STORE.renew(on, [], 1) == set()
    assert await STORE.retry(on, [], [], []) == await STORE.bury(on, [], [], []) == set()
    assert await STORE.hand_back(on, []) == set()
    assert await STORE.crash(on, [], [], lapsed=False) == {}


async def test_a_token_that_is_not_the_jobs_changes_nothing(on: AsyncConnection) -> None:
    """Every write of a run is fenced: whoever has lost the lease can do no harm."""
    await enqueue(on, key="k")
    orders = await claim(on)
    false = forged(orders)
    before = await rows(on, "jobs"), await rows(on, "job_keys")

    assert await STORE.complete(on, false) == set()
    assert await STORE.retry(on, false, [0.0], ["E"]) == set()
    assert await STORE.bury(on, false, ["E"], ["T"]) == set()
    assert await STORE.hand_back(on, false) == set()
    assert await STORE.renew(on, false, 999) == set()
    keys = [(one.id, one.token) for one in false]
    assert await STORE.crash(on, keys, ["E"], lapsed=False) == {}
    assert (await rows(on, "jobs"), await rows(on, "job_keys")) == before
    assert await rows(on, "jobs_done") == await rows(on, "jobs_failed") == []


async def test_a_batch_changes_only_what_is_still_held(on: AsyncConnection) -> None:
    """One lost lease does not spoil the completions beside it."""
    await enqueue(on, 3)
    first, second, third = await claim(on)

    assert await STORE.complete(on, [first, *forged([second]), third]) == {first.id, third.id}
    assert [row["id"] for row in await rows(on, "jobs")] == [second.id]


async def test_an_old_run_cannot_end_the_next_one(on: AsyncConnection) -> None:
    """After a lapsed lease the job belongs to the new claim, and to it alone."""
    await enqueue(on)
    old = await claim(on)
    await expire(on)
    await STORE.crash(on, await STORE.lapsed(on, 0.0), ["gone"], lapsed=True)
    new = await claim(on)

    assert ids(new) == ids(old)
    assert new[0].token != old[0].token
    assert await STORE.complete(on, old) == set()
    assert await STORE.complete(on, new) == set(ids(new))


# Crashes


async def test_a_crash_is_no_attempt_and_the_last_one_buries(on: AsyncConnection) -> None:
    """Two crashes give the job back, the third puts it into the failure queue."""
    (id,) = await enqueue(on, key="k")
    outcomes = []
    for n in range(CRASHES):
        (order,) = await claim(on) or await claim(on, alone=True)
        assert (order.attempt, order.crashes) == (1, n)
        outcomes.append(
            await STORE.crash(on, [(order.id, order.token)], [f"died {n}"], lapsed=False)
        )

    assert outcomes == [{id: False}, {id: False}, {id: True}]
    assert await rows(on, "jobs") == await rows(on, "job_keys") == []
    (failed,) = await rows(on, "jobs_failed")
    assert (failed["reason"], failed["crashes"], failed["attempts"]) == ("crashed", CRASHES, 0)
    assert failed["error"] == "died 2"


async def test_a_crash_keeps_the_attempts_before_it(on: AsyncConnection) -> None:
    """What had failed twice before its process died is at its third attempt again."""
    await enqueue(on)
    for _ in range(2):
        await STORE.retry(on, await claim(on), [0.0], ["E"])
    (third,) = await claim(on)
    await STORE.crash(on, [(third.id, third.token)], ["died"], lapsed=False)
    (again,) = await claim(on)

    assert (third.attempt, again.attempt, again.crashes) == (3, 3, 1)


async def test_only_what_nobody_renewed_lapses(on: AsyncConnection) -> None:
    """A lease that was renewed between the look and the write is left alone."""
    gone, renewed = await enqueue(on, 2)
    orders = await claim(on)
    await expire(on)
    lapsed = await STORE.lapsed(on, 0.0)
    assert sorted(id for id, _ in lapsed) == [gone, renewed]
    await STORE.renew(on, orders[1:], 60)

    crashed = await STORE.crash(on, lapsed, ["gone"] * 2, lapsed=True)
    assert crashed == {gone: False}


async def test_right_after_the_servers_start_nothing_has_lapsed(on: AsyncConnection) -> None:
    """While the server was away nobody could renew: all have one whole lease to say they live."""
    await enqueue(on)
    await claim(on)
    await expire(on)

    assert await STORE.lapsed(on, 10 * 366 * 86_400.0) == []
    assert len(await STORE.lapsed(on, 0.0)) == 1
    assert await OTHER.lapsed(on, 0.0) == []


# Housekeeping


async def test_what_no_worker_knows_ends_in_the_failure_queue(on: AsyncConnection) -> None:
    """After its patience, with a reason; what is known, runs, or is young stays."""
    await STORE.announce(on, [JobName("main:known", "default", "loop")])
    (unknown,) = await enqueue(on, name="main:gone", key="k")
    (known,) = await enqueue(on, name="main:known")
    (running,) = await enqueue(on, name="main:gone")
    await run(on, "UPDATE clearway.jobs SET run_at = now() - interval '1 hour'")
    await run(on, f"UPDATE clearway.jobs SET token = gen_random_uuid() WHERE id = {running}")
    (young,) = await enqueue(on, name="main:gone")
    (others,) = await enqueue(on, name="main:gone", store=OTHER)

    assert await STORE.bury_unknown(on, 600) == [(unknown, "main:gone")]
    assert {row["id"] for row in await rows(on, "jobs")} == {known, running, young, others}
    assert await rows(on, "job_keys") == []
    (failed,) = await rows(on, "jobs_failed")
    assert (failed["reason"], failed["error"]) == ("unknown", "no worker knows a job of this name")


async def test_a_name_that_was_not_seen_for_long_is_unknown(on: AsyncConnection) -> None:
    """A job that the last deploy has removed is not waited for."""
    await STORE.announce(on, [JobName(NAME, "default", "loop")])
    (id,) = await enqueue(on)
    await run(on, "UPDATE clearway.jobs SET run_at = now() - interval '1 hour'")
    assert await STORE.bury_unknown(on, 600) == []

    await run(on, "UPDATE clearway.job_names SET last_seen = now() - interval '20 minutes'")
    assert await STORE.bury_unknown(on, 600) == [(id, NAME)]


async def test_announcing_again_keeps_when_a_schedule_was_first_seen(on: AsyncConnection) -> None:
    """A restart changes nothing; another expression or time zone begins anew."""
    daily = JobName("main:report", "default", "loop", "0 3 * * *", "UTC")
    now, first = await STORE.announce(on, [daily, JobName(NAME, "default", "loop")])
    assert now is not None
    assert set(first) == {"main:report", NAME}
    _, again = await STORE.announce(on, [daily])
    assert again["main:report"] == first["main:report"]

    other = JobName("main:report", "slow", "process", "0 4 * * *", "UTC")
    _, changed = await STORE.announce(on, [other])
    assert changed["main:report"] > again["main:report"]
    elsewhere = JobName("main:report", "slow", "process", "0 4 * * *", "Europe/Berlin")
    _, moved = await STORE.announce(on, [elsewhere])
    assert moved["main:report"] > changed["main:report"]
    row = (await rows(on, "job_names WHERE schedule IS NOT NULL"))[0]
    assert (row["queue"], row["body"], row["timezone"]) == ("slow", "process", "Europe/Berlin")
    assert await STORE.announce(on, []) == (None, {})


async def test_announcers_do_not_lock_each_other_out(engine: AsyncEngine) -> None:
    """Any number of workers may start at one time with the same names in any order."""
    names = [JobName(f"main:f{n}", "default", "loop") for n in range(50)]

    async def announce(part: list[JobName]) -> None:
        async with engine.connect() as on:
            for _ in range(5):
                await STORE.announce(on, part)

    await asyncio.gather(*(announce(names if n % 2 else names[::-1]) for n in range(8)))
    async with engine.connect() as on:
        assert len(await rows(on, "job_names")) == 50


async def test_of_eight_tickers_one_enqueues(engine: AsyncEngine) -> None:
    """One unique row for each moment is what makes a schedule run once."""
    slots = {f"main:f{n}": datetime(2026, 5, 1, 3, tzinfo=UTC) for n in range(10)}
    async with engine.connect() as on:
        names = [JobName(name, "nightly", "process", "0 3 * * *", "UTC") for name in slots]
        await STORE.announce(on, names)

    async def tick(n: int) -> list[tuple[int, str]]:
        async with engine.connect() as on:
            order = list(slots) if n % 2 else list(slots)[::-1]
            return await STORE.tick(on, {name: slots[name] for name in order})

    made = await asyncio.gather(*map(tick, range(8)))

    assert sorted(name for mine in made for _, name in mine) == sorted(slots)
    async with engine.connect() as on:
        found = await rows(on, "jobs")
        assert {(row["queue"], row["body"]) for row in found} == {("nightly", "process")}
        assert [row["arguments"] for row in found] == [{}] * 10
        assert await STORE.tick(on, {"main:f0": datetime(2026, 5, 2, 3, tzinfo=UTC)}) != []
        assert await OTHER.tick(on, slots) == []


async def test_cleaning_throws_away_what_was_kept_for_long_enough(on: AsyncConnection) -> None:
    """The done after `keep_done`, the failed after `keep_failed`, keys at their end."""
    for store in (STORE, OTHER):
        await enqueue(on, 4, store=store)
        orders = await claim(on, store=store)
        await store.complete(on, orders[:2])
        await store.bury(on, orders[2:], ["E"] * 2, ["T"] * 2)
    old = "now() - interval '2 hours'"
    for table, column in (("jobs_done", "finished_at"), ("jobs_failed", "failed_at")):
        await run(on, f"UPDATE clearway.{table} SET {column} = {old} WHERE id % 2 = 0")
    await run(
        on,
        "INSERT INTO clearway.job_keys VALUES ('app', 'over', 1, now() - interval '1 s'), "
        "('app', 'still', 2, now() + interval '1 h'), ('app', 'pending', 3, NULL), "
        "('other', 'over', 4, now() - interval '1 s')",
    )
    await run(
        on,
        "INSERT INTO clearway.cron_slots VALUES ('app', 'a', now() - interval '32 days'), "
        "('app', 'b', now()), ('other', 'a', now() - interval '32 days')",
    )

    assert await STORE.clean(on, keep_done=3600, keep_failed=86_400, most=100) == 1
    assert await counts(on, "jobs_done") == {"app": 1, "other": 2}
    assert await counts(on, "jobs_failed") == {"app": 2, "other": 2}
    keys = await select(on, "key, service FROM clearway.job_keys ORDER BY job_id")
    assert [(row["service"], row["key"]) for row in keys] == [
        ("app", "still"), ("app", "pending"), ("other", "over"),
    ]  # fmt: skip
    assert await counts(on, "cron_slots") == {"app": 1, "other": 1}

    assert await STORE.clean(on, keep_done=0, keep_failed=3600, most=100) == 1
    assert await counts(on, "jobs_done") == {"other": 2}
    assert await counts(on, "jobs_failed") == {"app": 1, "other": 2}


async def test_cleaning_goes_on_where_it_has_left_off(on: AsyncConnection) -> None:
    """It says how much it took of what is done, so that a worker knows that there is more."""
    await enqueue(on, 5)
    await STORE.complete(on, await claim(on))

    taken = [await STORE.clean(on, keep_done=0, keep_failed=3600, most=3) for _ in range(3)]
    assert taken == [3, 2, 0]


async def test_a_requeued_job_begins_anew(on: AsyncConnection) -> None:
    """It keeps its id and its arguments, and neither its attempts nor its crashes count."""
    await enqueue(on, 3, queue="pdf")
    orders = await claim(on)
    await STORE.bury(on, orders, ["E"] * 3, ["T"] * 3)
    first, *others = ids(orders)

    assert await STORE.rows(on, "requeue", ids=[first, 4711]) == [{"id": first, "name": NAME}]
    (again,) = await claim(on)
    assert (again.id, again.queue, again.attempt, again.crashes) == (first, "pdf", 1, 0)
    assert again.arguments == '{"n": 0}'
    assert await OTHER.rows(on, "requeue", ids=None) == []
    everything = await STORE.rows(on, "requeue", ids=None)
    assert sorted(row["id"] for row in everything) == others
    assert await rows(on, "jobs_failed") == []


# The tables


async def test_the_script_runs_whole_and_again(
    postgres: EmbeddedPostgres, database_url: str, anyio_backend: object
) -> None:
    """What is printed for a migration makes the tables, and changes nothing when run again."""
    for _ in range(2):
        command = [str(postgres.psql), database_url, "-qX", "-v", "ON_ERROR_STOP=1", "-f", "-"]
        script = schema_sql("elsewhere").encode()
        answer = subprocess.run(command, input=script, capture_output=True, timeout=30)
        assert answer.returncode == 0, answer.stderr
    engine = create_async_engine(as_sqlalchemy(database_url), poolclass=NullPool)
    store = Store("elsewhere", "app")

    await store.install(engine, make=False)
    async with engine.connect() as on:
        assert len(await enqueue(on, 3, store=store)) == 3
        assert len(await claim(on, store=store)) == 3


async def test_a_store_of_a_newer_version_is_left_alone(
    engine: AsyncEngine, on: AsyncConnection
) -> None:
    """An old service in a rolling deploy says so instead of writing what it does not know."""
    await run(on, "INSERT INTO clearway.store_version VALUES (99)")
    with pytest.raises(StoreUnfit, match="version 99") as refused:
        await STORE.install(engine, make=True)

    assert refused.value.fix == "update this service"


def scans(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """Return how each node of a plan reads the table of jobs."""
    found = [(plan["Node Type"], plan.get("Index Name", ""))] if plan.get(
        "Relation Name") == "jobs" else []  # fmt: skip
    return found + [one for child in plan.get("Plans", ()) for one in scans(child)]


async def test_a_claim_goes_by_its_index(on: AsyncConnection) -> None:
    """Among 20,000 jobs of several queues no claim reads the whole table."""
    for n in range(4):
        await enqueue(on, 5000, queue=f"q{n}")
    await run(on, "UPDATE clearway.jobs SET run_at = run_at - id * interval '1 ms'")
    await run(on, "VACUUM ANALYZE clearway.jobs")
    explain = text("EXPLAIN (FORMAT JSON) " + STORE._sql("claim").text)
    for queues in ([], ["q1"]):
        result = await on.execute(
            explain,
            {
                "service": "app", "body": "loop", "names": [NAME], "queues": queues, "most": 20,
                "lease": 10.0, "crashes_from": 0, "crashes_to": 1,
            },
        )  # fmt: skip
        reads = scans(result.scalar_one()[0]["Plan"])

        assert "Seq Scan" not in {kind for kind, _ in reads}, reads
        assert "jobs_due" in {index for _, index in reads}, reads
        assert len(await claim(on, 20, queues=queues)) == 20
