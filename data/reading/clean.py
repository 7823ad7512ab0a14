"""Turn dirty cells into clean ones: times into ticks, names into codes, text into numbers.

Everything here works on whole columns, and nothing raises for a bad cell: it is marked, and
`Rejections` counts it and keeps the first few for the summary.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from data.fleet import BoolArray, FloatArray, IntArray
from data.reading.files import Chunk

EARLY_MILLISECONDS = 30_000  # how far a clock may run early, and at most a tenth of a step
# By its size an epoch number is seconds, milliseconds, microseconds or nanoseconds. The four ranges
# touch, and each covers 1973-03-03 to 5138-11-16; a clock outside them was never set.
EARLIEST, LATEST = 100_000_000_000, 100_000_000_000_000  # milliseconds
EPOCH_UNITS = ((1e11, 1e3), (1e14, 1.0), (1e17, 1e-3), (1e20, 1e-6))  # below, factor to ms
HAS_OFFSET = r":\d{2}(\.\d+)?\s*([Zz]|[+-]\d{2}:?(\d{2})?)$"
MISSING_WORDS = ("", "nan", "na", "n/a", "null", "none", "-")
EXPECTED_TIME = (
    "expected an ISO-8601 time such as 2026-01-05T12:00:00Z, or Unix seconds or milliseconds "
    "after 1973"
)
EXPECTED_NUMBER = "expected a number"
EXPECTED_NAME = "expected a server name"
FIRST_FEW = 5


@dataclass
class Rejections:
    """How much was refused, and the first few, each as a sentence."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, chunk: Chunk, column: str, rows: IntArray, expected: str) -> None:
        """Take in rows of a chunk whose cell in a column was refused."""
        self.count += len(rows)
        for row in rows[: FIRST_FEW - len(self.first)].tolist():
            value = chunk.column(column)[row].as_py()
            shown = "empty" if value is None else repr(value)
            hint = _number_meant(value) if expected == EXPECTED_NUMBER else ""
            self.first.append(f"{chunk.place(row)}, column {column!r}: {shown}, {expected}{hint}")

    @classmethod
    def total(cls, parts: Iterable["Rejections"]) -> "Rejections":
        """Return the sum of several."""
        every = list(parts)
        first = [text for part in every for text in part.first][:FIRST_FEW]
        return cls(sum(part.count for part in every), first)


class Times(NamedTuple):
    """A column of times."""

    milliseconds: IntArray  # [n] Unix time
    valid: BoolArray  # [n]
    naive: int
    """Cells that named no time zone."""


def read_times(column: pa.Array, timezone: str) -> Times:
    """Read times of any type; one that names no time zone is local time in `timezone`.

    Local times the clock shows twice, when summer time ends, are the first of the two; those it
    skips, when summer time starts, are the moment of the change.
    """
    column = _plain(column)
    if pa.types.is_string(column.type):
        return _read_text_times(column, timezone)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        zone = getattr(column.type, "tz", None)
        # Through microseconds: a nanosecond does not survive a safe cast, and is not needed.
        micros = pc.cast(column, pa.timestamp("us", zone), safe=False).cast(pa.int64())
        milliseconds = pc.fill_null(micros, 0).to_numpy() // 1_000
        naive = 0 if zone else len(column) - column.null_count
        if naive and timezone != "UTC":
            milliseconds = _to_utc(milliseconds, timezone)
        return Times(milliseconds, _in_range(milliseconds), naive)
    milliseconds = _epoch_milliseconds(_to_float(column, pa.float64()))
    return Times(milliseconds, _in_range(milliseconds), 0)


def to_ticks(milliseconds: IntArray, step_seconds: int) -> IntArray:
    """Return the tick of each time; a clock up to 30 s (or a tenth of a step) early is let pass."""
    step = step_seconds * 1_000
    return (milliseconds + min(EARLY_MILLISECONDS, step // 10)) // step


def _in_range(milliseconds: IntArray) -> BoolArray:
    return (milliseconds >= EARLIEST) & (milliseconds < LATEST)


def _read_text_times(column: pa.Array, timezone: str) -> Times:
    for type_ in (pa.float64(), pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            return read_times(pc.cast(column, type_), timezone)
        except pa.ArrowInvalid:
            continue  # not all of one kind
    text = pc.utf8_trim_whitespace(column)
    words = pd.Series(text.to_pylist(), dtype=object)
    numbers = pd.to_numeric(words, errors="coerce").to_numpy(np.float64)
    zoned = pc.fill_null(pc.match_substring_regex(text, HAS_OFFSET), False)
    zoned = zoned.to_numpy(zero_copy_only=False)
    dates = words.where(words.str.match(r"\d{4}", na=False))  # pandas knows "now" and "today" too
    # With utc=True pandas reads a time without a zone as UTC: exactly the local clock.
    times = pd.to_datetime(dates, format="ISO8601", utc=True, errors="coerce")
    is_time = times.notna().to_numpy() & np.isnan(numbers)
    clock = times.dt.tz_localize(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
    local = is_time & ~zoned
    if timezone != "UTC":
        clock[local] = _to_utc(clock[local], timezone)
    milliseconds = np.where(is_time, clock, _epoch_milliseconds(numbers))
    return Times(milliseconds, _in_range(milliseconds), int(local.sum()))


def _to_utc(milliseconds: IntArray, timezone: str) -> IntArray:
    """Turn local time into UTC; what is out of range stays as it is."""
    inside = _in_range(milliseconds)
    clock = pd.DatetimeIndex(milliseconds[inside].astype("datetime64[ms]"))
    first = np.ones(len(clock), bool)
    zoned = clock.tz_localize(timezone, ambiguous=first, nonexistent="shift_forward")
    utc = milliseconds.copy()
    utc[inside] = zoned.tz_convert(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
    return utc


def _epoch_milliseconds(numbers: npt.NDArray[np.floating]) -> IntArray:
    conditions = [numbers < below for below, _ in EPOCH_UNITS]
    factors = np.select(conditions, [factor for _, factor in EPOCH_UNITS], np.nan)
    scaled = np.floor(np.where(np.isfinite(numbers), numbers, 0.0) * factors)
    return np.where(np.abs(scaled) < LATEST, scaled, 0.0).astype(np.int64)


class Numbers(NamedTuple):
    """A column of numbers."""

    values: FloatArray  # [n], NaN where missing
    rejected: IntArray  # rows whose cell holds something that is no number
    infinite: int
    """Cells that held an infinity, or what float32 cannot hold; they are missing in `values`."""


def read_cells(chunk: Chunk, name: str, rows: IntArray) -> Numbers:
    """Read the numbers of some rows of a chunk; `rejected` are rows of the chunk."""
    column = chunk.column(name)
    if len(rows) < len(column):
        column = column.take(pa.array(rows))
    numbers = read_numbers(column)
    return numbers._replace(rejected=rows[numbers.rejected])


def read_numbers(column: pa.Array) -> Numbers:
    """Read numbers from a column of numbers or of text."""
    column = _plain(column)
    rejected: IntArray = np.zeros(0, np.int64)
    if pa.types.is_string(column.type):
        try:
            values = _to_float(pc.cast(column, pa.float64()), pa.float32())
        except pa.ArrowInvalid:
            values, rejected = _read_text_numbers(column)
    else:
        values = _to_float(column, pa.float32())
    infinite = np.isinf(values)
    num_infinite = int(infinite.sum())
    if num_infinite:
        values = np.where(infinite, np.float32(np.nan), values)
    return Numbers(values, rejected, num_infinite)


def _read_text_numbers(column: pa.Array) -> tuple[FloatArray, IntArray]:
    """Read the different words only: text in a number column repeats itself."""
    encoded = pc.dictionary_encode(pc.utf8_trim_whitespace(column))
    words = pd.Series(encoded.dictionary.to_pylist() + [None], dtype=object)
    numbers = pd.to_numeric(words, errors="coerce").to_numpy(np.float64)
    missing = words.str.lower().isin(MISSING_WORDS).to_numpy() | words.isna().to_numpy()
    codes = pc.fill_null(encoded.indices, len(words) - 1).to_numpy()
    with np.errstate(over="ignore"):  # becomes an infinity, counted as one
        values = numbers.astype(np.float32)
    return values[codes], np.flatnonzero((np.isnan(numbers) & ~missing)[codes])


def _number_meant(text: str) -> str:
    """Say how to write a percentage or a decimal comma; 1,234 may be either and is left alone."""
    match = re.fullmatch(r"([+-]?\d+)(?:[.,](\d+))?\s*%?", text.strip())
    if not match or ("," in text and len(match[2]) == 3):
        return ""
    return f"; write {match[1]}" + (f".{match[2]}" if match[2] else "")


class Codes:
    """Names numbered in the order they were first seen."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}

    def encode(self, column: pa.Array) -> IntArray:
        """Return each cell's number, -1 where it is empty; new names are added."""
        if not pa.types.is_dictionary(column.type):
            column = pc.dictionary_encode(pc.cast(column, pa.string()))
        words = pc.cast(column.dictionary, pa.string()).to_pylist()
        numbers = np.array([self._number(word) for word in words] + [-1], np.int64)
        codes: IntArray = pc.fill_null(column.indices.cast(pa.int64()), len(words)).to_numpy()
        return numbers[codes]

    def ranks(self) -> IntArray:
        """Return for each number its place in the sorted names."""
        ranks = np.empty(len(self.names), np.int64)
        ranks[[self.names[name] for name in sorted(self.names)]] = np.arange(len(self.names))
        return ranks

    def _number(self, word: str | None) -> int:
        name = (word or "").strip()
        return self.names.setdefault(name, len(self.names)) if name else -1


def _plain(column: pa.Array) -> pa.Array:
    """Return a column without its dictionary, text of any kind as plain strings."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = pc.cast(column, pa.string())
    return column


def _to_float(column: pa.Array, type_: pa.DataType) -> npt.NDArray[np.floating]:
    """Return a numeric column, null as NaN."""
    numbers: npt.NDArray[np.floating] = pc.cast(column, type_, safe=False).to_numpy(False)
    return numbers
