"""Drive the whole service once over HTTP, with real input, and say what happened."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from PIL import Image
from pydantic import TypeAdapter
from pypdf import PdfReader
from rich.console import Console
from rich.table import Table

from studio.inputs import Inputs, payments
from studio.others import Others
from studio.pictures import SIZES
from studio.schemas import (
    ImageOut,
    ImportOut,
    InvoiceOut,
    InvoicePage,
    JobOut,
    LoginOut,
    Rates,
    ReportOut,
)
from studio.service import Service, command, worker
from studio.stream import LogStream
from studio.visitor import Visitor

_LIGHT = "/invoices?limit=1"
_INVOICES = 60
_GOOD_LOGINS = 4
_BAD_LOGINS = 2
_WITHIN = 60.0  # seconds for what the worker does, which may share two processors with us
_IMAGES = TypeAdapter(list[ImageOut])
_REPORTS = TypeAdapter(list[ReportOut])


@dataclass(slots=True)
class _Outcome:
    """What was done and how long it took; times in seconds."""

    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    photos: int = 0
    thumbnails: int = 0
    photo_time: float = 0.0
    invoices: dict[int, str] = field(default_factory=dict)  # numbers by id
    paper_time: float = 0.0
    papers: int = 0
    paper_bytes: int = 0
    rates: str = ""
    failed: str = ""
    report: str = ""
    rows: int = 0
    rows_per_second: float = 0.0


def smoke(database_url: str, port: int, inputs: Inputs) -> int:
    """Start the studio, drive it, stop it, print a table; return 0 if all was well, else 1."""
    logs, others = _Logs(), Others()
    try:
        with others:
            env = {"CLEARWAY_LOGS__FORMAT": "json", **others.env}
            service = Service(database_url, port, output=logs.service.input, env=env)
            working = worker(database_url, output=logs.worker.input, env=env)
            with service, working:
                outcome, visitor = asyncio.run(_drive(service.url, database_url, inputs))
    finally:
        ended = logs.finish(10)
    visitor.expect(ended, "something that the studio had started outlived it")
    for one in (service, working):
        visitor.expect(one.code == 0, f"`clearway {one.name}` ended with {one.code}")
    told = Counter(webhook["number"] for webhook in others.posted("/webhook"))
    made = Counter(outcome.invoices.values())
    visitor.expect(told == made, f"others were told otherwise than once each: {told} of {made}")
    missing = _missing(visitor, logs)
    visitor.expect(not missing, f"{len(missing)} requests have no access line: {missing[:5]}")
    console = Console(highlight=False)
    console.print(_table(outcome, visitor, logs, told))
    for fault in visitor.faults:
        console.print(f"not as it should be: {fault}", style="red", markup=False)
    return 1 if visitor.faults else 0


class _Logs:
    """What service and worker log, each into a pipe of its own: lines of two do not mix."""

    def __init__(self) -> None:
        self.service, self.worker = LogStream(), LogStream()

    def finish(self, within: float) -> bool:
        """Wait until every writer has ended; say whether they did."""
        service, worker = self.service.finish(within), self.worker.finish(within)
        return service and worker

    def __len__(self) -> int:
        return len(self.service.lines) + len(self.worker.lines)

    def events(self, name: str) -> Iterator[Mapping[str, object]]:
        """Return the lines of one event."""
        yield from self.service.events(name)
        yield from self.worker.events(name)


async def _drive(url: str, database_url: str, inputs: Inputs) -> tuple[_Outcome, Visitor]:
    outcome = _Outcome()
    photos = [await asyncio.to_thread(photo.read_bytes) for photo in inputs.photos]
    table = await asyncio.to_thread(inputs.payments.read_bytes)
    async with Visitor(url) as visitor:
        for name, step in (
            ("invoices", _make_invoices(visitor, outcome)),
            ("papers", _fetch_papers(visitor, outcome)),
            ("rates", _ask_rates(visitor, outcome)),
            ("reminder", _fail_a_job(visitor, outcome, database_url)),
            ("report", _report(visitor, outcome, database_url)),
            ("photos", _make_thumbnails(visitor, outcome, photos)),
            ("import", _import(visitor, outcome, table)),
            ("login", _log_in(visitor)),
        ):
            try:
                await step
            except Exception as error:  # noqa: BLE001 - reported below with all other faults
                visitor.faults.append(f"{name} broke off: {error!r}")
    return outcome, visitor


async def _make_invoices(visitor: Visitor, outcome: _Outcome) -> None:
    """Create invoices, each read back at once; then one too many and one that cannot commit."""

    async def create(number: int) -> None:
        answer = await visitor.post("/invoices", _invoice(f"S-{number}"), 201)
        made = InvoiceOut.model_validate_json(answer)
        await visitor.get(f"/invoices/{made.id}")
        outcome.invoices[made.id] = made.number

    async with asyncio.TaskGroup() as group:
        for number in range(_INVOICES):
            group.create_task(create(number))
    await visitor.post("/invoices", _invoice("S-0"), 409)
    refused = await visitor.post("/invoices", _invoice("S-wrong", total="1.00"), 500)
    visitor.expect(b"CW221" in refused, f"not a failed COMMIT: {refused!r}")
    seen = await _count_invoices(visitor)
    visitor.expect(seen == _INVOICES, f"{seen} invoices are stored, not {_INVOICES}")


async def _count_invoices(visitor: Visitor) -> int:
    count = 0
    after: int | None = 0
    while after is not None:
        answer = await visitor.get(f"/invoices?limit=25&after={after}")
        page = InvoicePage.model_validate_json(answer)
        count, after = count + len(page.items), page.next
    return count


async def _fetch_papers(visitor: Visitor, outcome: _Outcome) -> None:
    """Wait for the PDF of each invoice, and read it."""
    started = time.monotonic()
    for id, number in outcome.invoices.items():
        patience = _WITHIN - (time.monotonic() - started)
        pdf = await visitor.get_when_made(f"/invoices/{id}/pdf", patience)
        text = PdfReader(io.BytesIO(pdf)).pages[0].extract_text()
        right = pdf.startswith(b"%PDF") and f"Invoice {number}\n" in text and "236.70" in text
        visitor.expect(right, f"the PDF of {number} says {text!r}")
        outcome.papers += 1
        outcome.paper_bytes += len(pdf)
    outcome.paper_time = time.monotonic() - started


async def _ask_rates(visitor: Visitor, outcome: _Outcome) -> None:
    rates = Rates.model_validate_json(await visitor.get("/rates"))
    visitor.expect("USD" in rates.rates, f"there is no dollar in {rates}")
    outcome.rates = f"{len(rates.rates)} currencies, 1 {rates.base} is {rates.rates['USD']} USD"


async def _fail_a_job(visitor: Visitor, outcome: _Outcome, database_url: str) -> None:
    """Enqueue a job that cannot succeed, and see it end in the failure queue, and no other."""
    answer = await visitor.post(f"/invoices/{min(outcome.invoices)}/reminder", None, 202)
    id = JobOut.model_validate_json(answer).job_id
    patience = time.monotonic() + _WITHIN
    failed: list[dict[str, object]] = []
    while not failed and time.monotonic() < patience:
        code, output = await command("jobs", "failed", "--json", database_url=database_url)
        visitor.expect(code == 0, f"`clearway jobs failed` ended with {code}: {output}")
        failed = [json.loads(line) for line in output.splitlines()]
    visitor.expect([row["id"] for row in failed] == [id], f"the failure queue has {failed}")
    for row in failed:
        tries, error = row["attempts"], str(row["error"])
        visitor.expect(tries == 3 and "500" in error, f"it failed otherwise: {row}")
        outcome.failed = f"{row['name']} in the failure queue after {tries} attempts: {error}"


async def _report(visitor: Visitor, outcome: _Outcome, database_url: str) -> None:
    """Run the schedule by hand, and wait for its row."""
    arguments = ("jobs", "cron", "run", "nightly_report")
    code, output = await command(*arguments, database_url=database_url)
    visitor.expect(code == 0, f"`clearway jobs cron run` ended with {code}: {output}")
    patience = time.monotonic() + _WITHIN
    invoices, total = 0, Decimal(0)
    while invoices < _INVOICES and time.monotonic() < patience:
        reports = _REPORTS.validate_json(await visitor.get("/reports"))
        invoices = sum(one.invoices for one in reports)
        total = sum((one.total for one in reports), Decimal(0))
        await asyncio.sleep(0.1)
    right = (invoices, total) == (_INVOICES, _INVOICES * Decimal("236.70"))
    visitor.expect(right, f"the report has {invoices} invoices over {total}")
    outcome.report = f"{output.strip()}: {invoices} invoices over {total}"


async def _make_thumbnails(visitor: Visitor, outcome: _Outcome, photos: list[bytes]) -> None:
    """Send all photos twice, all at one time, and watch what a light request notices of it."""
    outcome.alone = [await visitor.timed_get(_LIGHT) for _ in range(100)]
    started = time.perf_counter()
    sending = asyncio.gather(
        *(visitor.upload("/images", "files", photo, 201) for photo in photos * 2)
    )
    while not sending.done():
        outcome.beside.append(await visitor.timed_get(_LIGHT))
        await asyncio.sleep(0.005)
    images = [image for answer in await sending for image in _IMAGES.validate_json(answer)]
    outcome.photo_time = time.perf_counter() - started
    outcome.photos = len(images)
    for image in images:
        outcome.thumbnails += len(image.thumbnails)
        await _look_at(visitor, image)


async def _look_at(visitor: Visitor, image: ImageOut) -> None:
    for size, side in SIZES.items():
        jpeg = await visitor.get(f"/images/{image.id}/thumbnails/{size}")
        with Image.open(io.BytesIO(jpeg)) as thumbnail:
            thumbnail.load()
            upright = (thumbnail.height > thumbnail.width) == (image.height > image.width)
            visitor.expect(max(thumbnail.size) == side, f"{size} is {thumbnail.size}")
            visitor.expect(upright, f"image {image.id} lies on its side")


async def _import(visitor: Visitor, outcome: _Outcome, table: bytes) -> None:
    """Import a file; then one with a bad last row, of which nothing may be stored."""
    answer = await visitor.upload("/import", "file", table, 201)
    done = ImportOut.model_validate_json(answer)
    outcome.rows, outcome.rows_per_second = done.rows, done.rows / done.seconds
    await visitor.upload("/import", "file", table, 409)
    good = payments(1000, seed=2)
    refused = await visitor.upload("/import", "file", good + b"oops\r\n", 422)
    visitor.expect(b'"line":1002' in refused, f"the bad row was not named: {refused!r}")
    await visitor.upload("/import", "file", good, 201)  # a 409 if any of it had been stored


async def _log_in(visitor: Visitor) -> None:
    for _ in range(_BAD_LOGINS):
        await visitor.post("/login", {"name": "demo", "password": "wrong"}, 401)
    answer = await visitor.post("/login", {"name": "demo", "password": "demo"}, 200)
    counted = LoginOut.model_validate_json(answer).failed_before
    visitor.expect(counted == _BAD_LOGINS, f"{counted} refusals were counted, not {_BAD_LOGINS}")
    async with asyncio.TaskGroup() as group:
        for _ in range(_GOOD_LOGINS - 1):
            body = {"name": "demo", "password": "demo"}
            group.create_task(visitor.post("/login", body, 200))


def _invoice(number: str, total: str | None = None) -> dict[str, object]:
    lines = [
        {"description": "portrait session", "quantity": "1.5", "unit_price": "120.00"},
        {"description": "print, 30 x 40 cm", "quantity": "3", "unit_price": "18.90"},
    ]
    summed = sum(Decimal(line["quantity"]) * Decimal(line["unit_price"]) for line in lines)
    return {
        "number": number,
        "customer": "Ada Lovelace",
        "issued_on": "2026-11-22",
        "total": total or str(summed),
        "lines": lines,
    }


def _missing(visitor: Visitor, logs: _Logs) -> list[str]:
    seen = {event["request_id"] for event in logs.events("request")}
    return [id for id in visitor.ids if id not in seen]


def _table(outcome: _Outcome, visitor: Visitor, logs: _Logs, told: Counter[str]) -> Table:
    table = Table(title="studio, driven once", title_justify="left", show_header=False)
    speed = outcome.photos / (outcome.photo_time or 1.0)
    dropped = sum(int(str(event["dropped"])) for event in logs.events("log lines dropped"))
    for name, what in (
        ("thumbnails", f"{outcome.thumbnails} from {outcome.photos} photos, {speed:.1f} photos/s"),
        ("light route alone", _quantiles(outcome.alone)),
        ("light route beside photos", _quantiles(outcome.beside)),
        ("invoices", f"{len(outcome.invoices)} created, 1 refused (409), 1 COMMIT failed (500)"),
        ("papers", _papers(outcome)),
        ("webhooks", f"{told.total()} delivered, of {len(told)} invoices"),
        ("rates", outcome.rates),
        ("failing job", outcome.failed),
        ("nightly report", outcome.report),
        ("payments", f"{outcome.rows:,} rows, {outcome.rows_per_second:,.0f} rows/s"),
        ("logins", f"{_GOOD_LOGINS} accepted, {_BAD_LOGINS} refused and counted"),
        ("log lines", f"{len(logs)} written, {dropped} dropped"),
        ("slowest request", _slowest(logs)),
        ("request ids", f"{len(visitor.ids)} sent, {len(_missing(visitor, logs))} not logged"),
    ):
        table.add_row(name, what)
    return table


def _quantiles(seconds: list[float]) -> str:
    ordered = sorted(seconds) or [0.0]
    p50, p99 = (1000 * ordered[int(q * (len(ordered) - 1))] for q in (0.5, 0.99))
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms ({len(seconds)} requests)"


def _papers(outcome: _Outcome) -> str:
    kilobytes = outcome.paper_bytes / 1000
    return f"{outcome.papers} PDFs, {kilobytes:.0f} kB, {outcome.paper_time:.1f} s later"


def _slowest(logs: _Logs) -> str:
    """Return the slowest request and what it waited for, from its access line."""
    lines = list(logs.events("request"))
    if not lines:
        return "unknown: no access line"
    line = max(lines, key=lambda event: float(str(event["duration_ms"])))
    ledger = ", ".join(
        f"{name.removesuffix('_ms').replace('_', ' ')} {value} ms"
        for name, value in line.items()
        if name.endswith("_ms") and name != "duration_ms"
    )
    return f"{line['method']} {line['route']}, {line['duration_ms']} ms: {ledger or 'no waits'}"
