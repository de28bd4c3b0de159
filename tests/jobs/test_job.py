"""Declaring a job, and what stands in the way of it."""

from __future__ import annotations

import dataclasses
import math
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, Request

from clearway import DbSession, Job, JobContext, ReadDbSession, job
from clearway.errors import JobArgumentsInvalid, JobDeclarationInvalid
from clearway.jobs.declare import checked
from clearway.offload.processes import Processes
from clearway.offload.threads import Threads
from clearway.settings import OffloadSettings
from jobs import declared


async def on_the_loop(number: int) -> int:
    """Stand for a job."""
    return number


def plain(number: int) -> int:
    """Stand for a job."""
    return number


class Group:
    @staticmethod
    def static(number: int) -> int:
        return number


def test_a_coroutine_function_runs_on_the_loop_and_a_plain_one_in_a_thread() -> None:
    """The body follows from the kind of function, unless a plain one asks for a process."""
    assert job()(on_the_loop).body == "loop"
    assert job()(plain).body == "thread"
    assert job(run_in="thread")(plain).body == "thread"
    assert job(run_in="process")(plain).body == "process"


def test_a_declared_job_has_its_name_and_what_it_was_given() -> None:
    """The name is `module:qualname`, and the registry has the job under it."""
    one = job(retries=7, backoff=0.5, timeout=9, queue="slow")(plain)

    assert (one.retries, one.backoff, one.timeout, one.queue) == (7, 0.5, 9, "slow")
    assert one.name == f"{__name__}:plain"
    assert checked({one.name: one}) == {one.name: one}
    assert job()(Group.static).name == f"{__name__}:Group.static"


def test_declaring_puts_the_job_into_the_registry(undeclared: dict[str, object]) -> None:
    """A worker finds every job that was declared."""
    one = job()(plain)

    assert undeclared == {f"{__name__}:plain": one}


@pytest.mark.anyio
async def test_calling_a_job_calls_its_function(anyio_backend: object) -> None:
    """A test may call it like the function it was, with what a worker would supply."""
    context = JobContext(1, "n", "q", 2, False, datetime.now(UTC), None)

    assert job()(plain)(4) == 4
    assert await declared.look(context, number=5) == 7


def test_a_job_looks_like_its_function() -> None:
    """Its docstring and name are the function's own."""
    assert declared.note.__doc__ == "Return the number."
    assert vars(declared.note)["__name__"] == "note"


# What cannot be a job


def make_nested() -> Callable[[], None]:
    """Stand for a job."""

    def nested() -> None:
        pass

    return nested


def generator() -> Iterator[int]:
    """Stand for a job."""
    yield 1


async def async_generator() -> AsyncIterator[int]:
    """Stand for a job."""
    yield 1


def variadic(*numbers: int) -> None:
    """Stand for a job."""


def variadic_by_name(**numbers: int) -> None:
    """Stand for a job."""


def without_a_name(number: int, /) -> None:
    """Stand for a job."""


async def supplied_behind(number: int, session: DbSession) -> None:
    """Stand for a job."""


async def context_behind(number: int, *, context: JobContext) -> None:
    """Stand for a job."""


def unknown_annotation(thing: object) -> None:
    """Stand for a job."""


unknown_annotation.__annotations__["thing"] = "Elsewhere"


def unreadable_annotation(thing: object) -> None:
    """Stand for a job."""


unreadable_annotation.__annotations__["thing"] = "sys.no_such_name"


class Opaque:
    """Nothing that pydantic knows."""


def opaque(thing: Opaque) -> None:
    """Stand for a job."""


def of_a_request(request: Request) -> None:
    """Stand for a job."""


async def current_user(request: Request) -> str:
    """Stand for a job."""
    return request.url.path


async def opened() -> AsyncIterator[int]:
    """Stand for a job."""
    yield 1


async def needs_a_request(user: Annotated[str, Depends(current_user)]) -> None:
    """Stand for a job."""


async def needs_an_exit(number: int = Depends(opened)) -> None:
    """Stand for a job."""


def in_thread(session: DbSession) -> None:
    """Stand for a job."""


def context_and_session(context: JobContext, session: ReadDbSession) -> None:
    """Stand for a job."""


REFUSED = [
    pytest.param(make_nested(), {}, "at the top level", "move it there", id="nested"),
    pytest.param(lambda: None, {}, "at the top level", "move it there", id="lambda"),
    pytest.param(generator, {}, "generator yields", "let it return", id="generator"),
    pytest.param(async_generator, {}, "async_generator yields", "return", id="async generator"),
    pytest.param(
        on_the_loop, {"run_in": "process"}, "`async def` and asks to run in a process",
        "plain `def`", id="async in a process",
    ),
    pytest.param(
        on_the_loop, {"run_in": "thread"}, "`async def` and asks to run in a thread",
        "plain `def`", id="async in a thread",
    ),
    pytest.param(variadic, {}, "*numbers", "name each parameter", id="*args"),
    pytest.param(variadic_by_name, {}, "**numbers", "take one dict", id="**kwargs"),
    pytest.param(without_a_name, {}, "positional-only", "leave out the `/`", id="positional only"),
    pytest.param(
        supplied_behind, {}, "session is supplied by the worker and stands behind number",
        "put session before number", id="supplied behind",
    ),
    pytest.param(context_behind, {}, "context is supplied", "before number", id="context behind"),
    pytest.param(
        unknown_annotation, {}, "name 'Elsewhere'", "TYPE_CHECKING", id="unknown annotation"
    ),
    pytest.param(
        unreadable_annotation, {}, "no_such_name", "annotate it", id="unreadable annotation"
    ),
    pytest.param(opaque, {}, "Opaque", "annotate it", id="not for pydantic"),
    pytest.param(of_a_request, {}, "Request", "annotate it", id="a request"),
    pytest.param(
        needs_a_request, {}, "user depends on current_user", "call the rest yourself",
        id="dependency with parameters",
    ),
    pytest.param(
        needs_an_exit, {}, "number depends on opened, which takes parameters or yields",
        "take a DbSession", id="dependency that yields",
    ),
    pytest.param(
        in_thread, {}, "runs in a thread and takes session", "`async def`",
        id="session in a thread",
    ),
    pytest.param(
        in_thread, {"run_in": "process"}, "runs in a process and takes session", "`async def`",
        id="session in a process",
    ),
    pytest.param(
        context_and_session, {}, "runs in a thread and takes context, session", "`async def`",
        id="context and session in a thread",
    ),
    pytest.param(plain, {"retries": -1}, "retries=-1", "0 or more", id="retries"),
    pytest.param(plain, {"timeout": 0}, "timeout=0", "more than 0", id="timeout"),
    pytest.param(plain, {"backoff": -0.1}, "backoff=-0.1", "0 or more", id="backoff"),
]  # fmt: skip


@pytest.mark.parametrize(("fn", "options", "what", "fix"), REFUSED)
def test_what_cannot_be_a_job_is_refused_with_the_fix(
    fn: Any, options: Any, what: str, fix: str, undeclared: dict[str, Job[..., ..., Any]]
) -> None:
    """It is found when the job is declared or checked at the start, and named with the way out."""
    with pytest.raises(JobDeclarationInvalid) as refused:
        checked({"it": job(**options)(fn)})

    assert what in refused.value.what
    assert fix in refused.value.fix
    assert fn.__qualname__ in refused.value.what


def test_a_thread_or_a_process_may_take_the_context() -> None:
    """A JobContext is plain data and travels everywhere."""
    for run_in in ("thread", "process"):
        one = job(run_in=run_in)(takes_context)
        assert list(one.arguments.supplied) == ["context"]


def takes_context(context: JobContext, number: int) -> None:
    """Stand for a job."""


# Options


def test_options_say_when_and_by_which_queue() -> None:
    """A delay is seconds or a timedelta; the job itself stays as it was."""
    base = declared.render
    later = base.options(delay=timedelta(minutes=2), queue="slow").call(1)

    assert (later.delay, later.queue) == (120, "slow")
    assert (base.options(delay=1.5).call(1).delay, base.options().call(1).queue) == (1.5, "pdf")
    assert (base.call(1).delay, base.call(1).queue, base.call(1).key) == (0, "pdf", None)
    assert base.options(delay=5).options(queue="other").call(1).queue == "other"
    assert base.options(queue="other").name == base.name


def test_unique_makes_a_key_of_the_arguments() -> None:
    """The same arguments make the same key, other arguments or another window another."""
    pending, day = declared.note.options(unique="pending"), declared.note.options(unique="day")

    assert pending.call(1).key == pending.call(number=1).key
    assert len({pending.call(1).key, pending.call(2).key, day.call(1).key, None}) == 4
    assert (pending.call(1).window, day.call(1).window) == (None, 86_400)
    assert declared.note.options(unique="minute").call(1).window == 60
    assert declared.note.options(unique="hour").call(1).window == 3600


def test_a_key_stands_for_the_arguments() -> None:
    """With a key of one's own, other arguments are the same job."""
    one = declared.note.options(unique="pending", key="the only one")

    assert one.call(1).key == one.call(2).key
    assert one.call(1).key != declared.note.options(unique="pending", key="another").call(1).key


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"delay": -1}, "delay=-1"),
        ({"delay": timedelta(seconds=-1)}, "delay=datetime.timedelta"),
        ({"delay": math.nan}, "delay=nan"),
        ({"delay": math.inf}, "delay=inf"),
        ({"delay": timedelta.max}, "delay=datetime.timedelta"),
        ({"unique": "year"}, "unique='year'"),
        ({"key": "k"}, "without unique"),
        ({"unique": "day", "key": ""}, "key=''"),
        ({"unique": "day", "key": "k" * 201}, "no key"),
        ({"unique": "day", "key": "a\0b"}, "key='a\\x00b'"),
        ({"unique": "day", "key": "\ud800"}, "key='\\ud800'"),
    ],
)
def test_an_option_that_means_nothing_is_refused(options: Any, what: str) -> None:
    """It is said when the option is set, not by the database when the job is enqueued."""
    with pytest.raises(JobArgumentsInvalid) as refused:
        declared.note.options(**options)

    assert what in refused.value.what
    assert declared.note.name in refused.value.what


# Names that travel


@pytest.mark.anyio
async def test_a_job_travels_to_a_process_as_its_function_would(anyio_backend: object) -> None:
    """`offload.process(a_job, ...)` finds the job by its name on the other side."""
    part = Processes(OffloadSettings(processes=1, nice=0))
    await part.open()
    try:
        assert await part.run(declared.render, 3, timeout=30) == 3
    finally:
        await part.close()

    assert pickle.loads(pickle.dumps(declared.render)) is declared.render


@pytest.mark.anyio
async def test_a_job_may_be_called_in_a_thread(anyio_backend: object) -> None:
    """`offload.thread(a_job, ...)` runs a plain job's function."""
    part = Threads(OffloadSettings(threads=1))
    await part.open()
    try:
        assert await part.run(declared.render, 4) == 4
    finally:
        await part.close()


SCRIPT = """
from clearway import job

@job()
def work() -> None: ...

print(work.name)
"""


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["app/main.py"], "main:work"),
        (["-m", "app.main"], "app.main:work"),
        (["-m", "app"], "app.__main__:work"),
    ],
)
def test_a_script_names_its_jobs_as_a_worker_imports_them(
    tmp_path: Path, command: list[str], name: str
) -> None:
    """What `python main.py` enqueues is found by `clearway worker main:app`."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "main.py").write_text(SCRIPT)
    (tmp_path / "app" / "__main__.py").write_text(SCRIPT)
    answer = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )

    assert answer.stdout == f"{name}\n"


def test_a_placement_is_frozen() -> None:
    """Options never change a job that others hold."""
    other = declared.note.options(delay=3)

    assert other is not declared.note
    with pytest.raises(dataclasses.FrozenInstanceError):
        other._placement.delay = 5  # type: ignore[misc]  # that is the test
