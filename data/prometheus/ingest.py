"""From a Prometheus to a folder of Parquet files, one a UTC day, that `data.reading` reads.

day=2026-01-05/metrics.parquet   rows of that day; its metadata says up to which tick it was asked
_ingest.json                     what was asked whom: one folder holds one table
_ingest.lock                     held by the process at work; the reader passes over `_` and `.`

The files are the state. A day's file appears whole or not at all, and always covers the day from
its first tick on, so a run that was killed goes on with the first day without a file, and a later
run completes the last day and adds new ones. A day without a value has no file. Remove a day's
folder to have it fetched again.
"""

import fcntl
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.prometheus.client import Client
from data.prometheus.fetch import Block, Fetcher, Progress
from data.prometheus.queries import Queries
from tft.files import write_atomically

DAY = 86_400
ABOUT, LOCK, FILE = "_ingest.json", "_ingest.lock", "metrics.parquet"
ASKED_UNTIL = b"asked_until_tick"


@dataclass(frozen=True)
class Ingested:
    """What one run fetched."""

    days: int
    """Days fetched or completed."""
    days_kept: int
    """Days that were there already."""
    days_empty: tuple[str, ...]
    """Of the fetched, those without any value."""
    servers: int
    rows: int
    values: dict[str, int]
    """By metric, how many are neither missing nor NaN."""
    requests: int
    retries: int

    def lines(self) -> list[str]:
        """Say it, a line each."""
        lines = [
            f"{self.rows:,} new rows of {self.servers:,} servers; days fetched: {self.days}, "
            f"kept: {self.days_kept}; requests: {self.requests}, of them repeated: {self.retries}"
        ]
        for name, count in self.values.items():
            if self.rows:
                hint = "" if count else "; does its query match?"
                lines.append(f"{name}: {count:,} values{hint}")
        if self.days_empty:
            lines.append(
                f"days without any value: {len(self.days_empty)}, from {self.days_empty[0]} to "
                f"{self.days_empty[-1]}; older than the server keeps, or nothing was scraped"
            )
        return lines


def ingest(
    client: Client,
    days: int,
    out: str | Path,
    queries: Queries | None = None,
    clock: Callable[[], float] = time.time,
    progress: Progress = lambda share: None,
) -> Ingested:
    """Fetch what is missing of the last days, up to the last tick that is over.

    Args:
        client: of the Prometheus.
        days: whole UTC days before today; today so far comes on top.
        out: folder of the table, created where there is none.
        queries: what to ask for; node_exporter's cpu, memory, disk and load by default.
        clock: Unix seconds.
        progress: called with the fraction done.

    Raises:
        ValueError: the folder holds something else or is in use, a query is refused, or, in all
            these days, none has any value.
        ConnectionError: no answer after all attempts; what was fetched is kept.
    """
    queries, out = queries or Queries(), Path(out)
    if days < 1:
        raise ValueError(f"days {days} must be at least 1")
    with _taken(out, client.endpoint.url, queries):
        fetcher = Fetcher(client, queries)
        end = fetcher.end_tick(clock())
        today = (end - 1) * queries.step_seconds // DAY
        span = range(today - days, today + 1)
        parts = []
        for done, day in enumerate(span):

            def tell(share: float, done: int = done) -> None:
                progress((done + share) / len(span))

            parts.append(_fetch_day(fetcher, day, end, out, tell))
            tell(1.0)
    if not any(part.held + part.new for part in parts):
        raise ValueError(
            f"{client.endpoint.url} has no value for any query, in {len(span)} days; is it "
            "scraping node_exporter, or what --queries asks for?"
        )
    return _sum_up(parts, fetcher)


class _Part(NamedTuple):
    """What was done about one day."""

    day: str
    fetched: bool
    held: int
    """Rows that were there."""
    new: int
    servers: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    """By metric, in the new rows."""


def _fetch_day(fetcher: Fetcher, day: int, end: int, out: Path, tell: Progress) -> _Part:
    """Fetch what is missing of one day, up to before a tick."""
    step, name = fetcher.queries.step_seconds, str(np.datetime64(day, "D"))
    path = out / f"day={name}" / FILE
    first, end = -(-day * DAY // step), min(end, -(-(day + 1) * DAY // step))
    first, held = _held(path, first)
    if first >= end:
        return _Part(name, False, held, 0)
    block = fetcher.block(first, end, tell)
    new = _table(block, fetcher.queries)
    table = new if not held else pa.concat_tables([pq.ParquetFile(path).read(), new])
    if table.num_rows:  # else it is asked for again: the server may yet be filled
        table = table.sort_by([("server_name", "ascending"), ("timestamp", "ascending")])
        table = table.replace_schema_metadata({ASKED_UNTIL: str(end)})
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, sink.getvalue())
    values = (new.num_rows - new[metric].null_count for metric in fetcher.queries.metrics)
    return _Part(name, True, held, new.num_rows, block.servers, tuple(values))


def _held(path: Path, first: int) -> tuple[int, int]:
    """Return the tick a day's file was asked up to, `first` if there is none, and its rows."""
    if not path.exists():
        return first, 0
    try:
        facts = pq.read_metadata(path)
        return int(facts.metadata[ASKED_UNTIL]), facts.num_rows
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged, or no ingest wrote it; remove its folder to fetch that day again"
        ) from error


def _table(block: Block, queries: Queries) -> pa.Table:
    """Return the rows that have a value."""
    servers, ticks = np.nonzero(~np.isnan(block.values).all(axis=2))
    times = (block.first_tick + ticks) * (queries.step_seconds * 1_000)
    names = np.array(block.servers, object)[servers]
    columns = {
        "timestamp": pa.array(times, pa.int64()).cast(pa.timestamp("ms", "UTC")),
        "server_name": pa.array(names, pa.string()),
    }
    if queries.profile_label:
        profiles = np.array(block.profiles, object)[servers]
        columns["profile"] = pa.array(profiles, pa.string())
    for number, name in enumerate(queries.metrics):
        cells = block.values[servers, ticks, number]
        columns[name] = pa.array(cells, pa.float64(), mask=np.isnan(cells))
    return pa.table(columns)


def _sum_up(parts: Sequence[_Part], fetcher: Fetcher) -> Ingested:
    fetched = [part for part in parts if part.fetched]
    counts = [sum(column) for column in zip(*(part.values for part in fetched), strict=True)]
    names = fetcher.queries.metrics
    return Ingested(
        days=len(fetched),
        days_kept=len(parts) - len(fetched),
        days_empty=tuple(part.day for part in fetched if not part.held + part.new),
        servers=len({server for part in fetched for server in part.servers}),
        rows=sum(part.new for part in fetched),
        values=dict(zip(names, counts or [0] * len(names), strict=True)),
        requests=fetcher.client.requests,
        retries=fetcher.client.retries,
    )


@contextmanager
def _taken(out: Path, url: str, queries: Queries) -> Iterator[None]:
    """Hold the folder, which is new or holds the answers to the same queries."""
    about = out / ABOUT
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    strangers = [path.name for path in out.iterdir() if not path.name.startswith((".", "_"))]
    if strangers and not about.exists():
        raise ValueError(
            f"{out} holds {min(strangers)}, which no ingest wrote; name a new folder with --out"
        )
    with open(out / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another ingest is writing to {out}; wait for it") from None
        for half_written in out.rglob(".*.tmp"):  # by one that was killed, see write_atomically
            half_written.unlink()
        _check_same(about, {"url": url.rstrip("/"), **asdict(queries)})
        yield


def _check_same(about: Path, asked: dict[str, Any]) -> None:
    """Refuse a folder with the answers to other queries; note what a new one is about."""
    if not any(about.parent.glob(f"*/{FILE}")):
        write_atomically(about, (json.dumps(asked, indent=1) + "\n").encode())
        return
    try:
        before = dict(json.loads(about.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"cannot read {about}: {error}; name a new folder with --out") from error
    for key, value in asked.items():
        if before.get(key) != value:
            raise ValueError(
                f"{about}: the table was made with {key} = {before.get(key)!r}, asked for now is "
                f"{value!r}; name a new folder with --out, or, if that is the same, edit the file"
            )
