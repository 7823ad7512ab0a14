"""What is sent to the service: rows of a table, one by one, and what became of them.

n rows, M metrics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data.fleet import FloatArray, IntArray
from data.reading.clean import (
    EARLIEST,
    EXPECTED_NAME,
    EXPECTED_NUMBER,
    EXPECTED_TIME,
    LATEST,
    BoolArray,
    to_ticks,
)
from data.reading.files import Chunk, TableFile
from data.reading.grid import Cleaner
from data.reading.roles import nearest
from tft.schema import FeatureSchema

_FEED = TableFile(Path("feed"), {})  # where rows come from; columns of numbers name no place in it
MOST_SHOWN = 60  # characters of what a stranger sent that are sent back


@dataclass(frozen=True, slots=True)
class Observation:
    """One server at one time."""

    server: str
    timestamp_ms: int
    """Unix milliseconds."""
    profile: str | None
    """None: not said."""
    values: Mapping[str, float | None]
    """By metric, in raw units; None, or left out: missing."""
    static: Mapping[str, float | None] = field(default_factory=dict)
    """Numbers that describe the server, by column; None, or left out: not said."""


@dataclass(frozen=True, order=True)
class Rejected:
    """A row that was refused."""

    index: int
    """Its place among those sent."""
    reason: str


@dataclass(frozen=True)
class Receipt:
    """What became of the rows sent: each was accepted, a duplicate or rejected."""

    accepted: int
    """New rows; they are on disk."""
    duplicates: int
    """Rows that were held already: same server, time and values."""
    late: int
    """Of the accepted, those of a tick before their server's last one."""
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True)
class Sound:
    """The rows nothing is wrong with, cleaned."""

    index: IntArray  # [n] places among those sent
    servers: list[str]  # [n] names without spaces around
    milliseconds: IntArray  # [n]
    ticks: IntArray  # [n]
    cells: FloatArray  # [n, M] within bounds, NaN where missing

    def only(self, wanted: BoolArray) -> "Sound":
        """Return those wanted, [n]."""
        names = [name for name, want in zip(self.servers, wanted, strict=True) if want]
        return Sound(
            self.index[wanted],
            names,
            self.milliseconds[wanted],
            self.ticks[wanted],
            self.cells[wanted],
        )


class Sieve:
    """Tells sound rows from others and cleans them, by the rules for tables (`data.reading`)."""

    def __init__(self, schema: FeatureSchema) -> None:
        self.schema = schema
        self.cleaner = Cleaner(schema.metrics)
        """Counts values that were infinite, clipped to an upper bound or below the lower one."""

    def sift(self, rows: Sequence[Observation], now: float) -> tuple[Sound, list[Rejected]]:
        """Return the sound rows, and why the others are not; `now` is in Unix seconds."""
        index, cells, rejected = [], [], []
        names = self.schema.metric_names
        for place, row in enumerate(rows):
            try:
                self._check_place(row, now)
                numbers = _numbers(row.values, names, "metric")
                _numbers(row.static, self.schema.static_reals, "static column")
            except ValueError as error:
                rejected.append(Rejected(place, str(error)))
                continue
            index.append(place)
            cells.append(numbers)
        milliseconds = np.array([rows[place].timestamp_ms for place in index], np.int64)
        columns = np.array(cells, np.float64).reshape(len(index), len(names))
        arrays = [pa.array(column) for column in columns.T]
        chunk = Chunk(_FEED, pa.RecordBatch.from_arrays(arrays, list(names)), 0, 1.0)
        sound = Sound(
            index=np.array(index, np.int64),
            servers=[rows[place].server.strip() for place in index],
            milliseconds=milliseconds,
            ticks=to_ticks(milliseconds, self.schema.step_seconds),
            cells=self.cleaner.cells(chunk, np.arange(len(index))),
        )
        return sound, rejected

    def _check_place(self, row: Observation, now: float) -> None:
        if not row.server.strip():
            raise ValueError(f"server_name is empty; {EXPECTED_NAME}")
        if not EARLIEST <= row.timestamp_ms < LATEST:
            raise ValueError(f"timestamp {row.timestamp_ms} ms: {EXPECTED_TIME}")
        step = self.schema.step_seconds
        if row.timestamp_ms > (now + step) * 1000:
            raise ValueError(
                f"timestamp {clock_time(row.timestamp_ms / 1000)} is over one step of {step} s "
                f"ahead of the service's clock, {clock_time(now)}; set the clock of the sender"
            )


def clock_time(seconds: float) -> str:
    """Write Unix seconds as UTC time, RFC 3339."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _numbers(values: Mapping[str, Any], names: Sequence[str], what: str) -> list[float]:
    """Return the values in the order of their names, NaN where missing."""
    for name in values:
        if name not in names:
            raise ValueError(f"unknown {what} {name[:MOST_SHOWN]!r}; {nearest(name, names)}")
    return [_number(values.get(name), name) for name in names]


def _number(value: Any, name: str) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name} is {str(value)[:MOST_SHOWN]!r}; {EXPECTED_NUMBER}, or null")
    try:
        return float(value)
    except OverflowError:  # an integer beyond float64: infinite, like one beyond float32
        return float("inf")
