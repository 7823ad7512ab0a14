"""Forecasts as a table: which origins, and rows out to a file, batch by batch.

B windows, H horizon steps, M targets, Q quantiles.
"""

import csv
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data.cold_start import fewest_seen, is_cold_start, seen_ticks
from data.fleet import Fleet, IntArray
from data.reading.clean import read_times, to_ticks
from data.shards import WHOLE, Shard
from data.windows import WindowStore
from tft.forecaster import Forecaster
from tft.schema import FeatureSchema

BATCH_SIZE = 256
FORMATS = (".parquet", ".csv")


class Origins(NamedTuple):
    """Windows to forecast."""

    server: IntArray  # [n] numbers in the fleet
    origin: IntArray  # [n] absolute ticks, the first to forecast


def choose_origins(
    path: Path | None,
    fleet: Fleet,
    schema: FeatureSchema,
    timezone: str,
    say: Callable[[str], None],
    shard: Shard = WHOLE,
) -> Origins:
    """Read a file of origins, or take every server's latest, and say what is out of the ordinary.

    A file or table that is refused is refused for every part of the fleet.

    Args:
        path: see `read_origins`; None: see `latest_origins`.
        fleet: read with the schema.
        schema: of the forecaster.
        timezone: zone of the file's times that name none.
        say: told of servers left out, of ended ones and of cold starts, a line each.
        shard: the part of the fleet to forecast and to speak of; it may hold no server.

    Raises:
        ValueError: no server of the table can be forecast, or see `read_origins`.
    """
    if path is not None:
        origins = read_origins(path, fleet, schema, timezone)
    else:
        origins = latest_origins(fleet, schema)
        for name in filter(shard.has, silent_servers(fleet, schema)):
            say(f"{name}: no target seen in its last {schema.context_length} ticks; not forecast")
        for name in filter(shard.has, ended_early(fleet, schema)):
            say(f"{name}: its rows end long before the table's; forecast from its own last one")
    if len(origins.server) == 0:
        raise ValueError(
            "nothing to forecast: no server has a target seen in its last "
            f"{schema.context_length} ticks"
        )
    for name in filter(shard.has, cold_starts(fleet, origins, schema)):
        say(
            f"{name}: cold start, under {schema.min_context_length} ticks of history, or a target "
            f"seen in under {fewest_seen(schema)} of its last {schema.context_length}"
        )
    mine = np.array([shard.has(name) for name in fleet.servers])[origins.server]
    return Origins(origins.server[mine], origins.origin[mine])


def latest_origins(fleet: Fleet, schema: FeatureSchema) -> Origins:
    """Return, for every server with a seen target, the tick after its last row."""
    everyone = Origins(np.arange(len(fleet.servers)), fleet.first_tick + fleet.lengths)
    known = np.flatnonzero(seen_ticks(fleet, *everyone, schema))
    return Origins(known, everyone.origin[known])


def silent_servers(fleet: Fleet, schema: FeatureSchema) -> list[str]:
    """Name the servers `latest_origins` leaves out: no target was seen in their last context."""
    known = set(latest_origins(fleet, schema).server.tolist())
    return [name for number, name in enumerate(fleet.servers) if number not in known]


def ended_early(fleet: Fleet, schema: FeatureSchema) -> list[str]:
    """Name the servers whose series ends over a horizon before the table does.

    `latest_origins` forecasts them from their own last row, so their whole forecast is of the past.
    """
    ends = fleet.first_tick + fleet.lengths
    early = np.flatnonzero(fleet.end_tick - ends > schema.prediction_horizon)
    return [fleet.servers[number] for number in early]


def read_origins(
    path: str | Path, fleet: Fleet, schema: FeatureSchema, timezone: str = "UTC"
) -> Origins:
    """Read a CSV with columns server_name and origin, the time of the first tick to forecast.

    A line that repeats a server and tick adds nothing.

    Args:
        path: of the CSV file.
        fleet: read with the schema.
        schema: of the forecaster.
        timezone: zone of times that name none; every time is read as in a table.

    Raises:
        ValueError: a column is missing, a line names no server of the table or no time, or there
            is no history before it; the message names file and line.
    """
    table = _read_lines(path)
    numbers = {name: number for number, name in enumerate(fleet.servers)}
    server = table["server_name"].str.strip().map(numbers)
    _refuse(path, table, server.isna(), "server_name", "a server of the table")
    times = read_times(pa.array(table["origin"], pa.string()), timezone)
    _refuse(path, table, ~times.valid, "origin", "a time such as 2026-01-05T12:00:00Z")
    origin = to_ticks(times.milliseconds, schema.step_seconds)
    found = Origins(server.to_numpy(np.int64), origin)
    need = f"a time with a target seen in the {schema.context_length} ticks before it"
    _refuse(path, table, seen_ticks(fleet, *found, schema) == 0, "origin", need)
    once = ~pd.DataFrame(found._asdict()).duplicated().to_numpy()
    return Origins(found.server[once], found.origin[once])


def cold_starts(fleet: Fleet, origins: Origins, schema: FeatureSchema) -> list[str]:
    """Name the servers forecast from less history than any training window had, or from gaps."""
    cold = is_cold_start(fleet, *origins, schema)
    return [fleet.servers[number] for number in np.unique(origins.server[cold])]


def write_forecasts(
    forecaster: Forecaster,
    fleet: Fleet,
    origins: Origins,
    path: str | Path,
    quantiles: Sequence[float],
    progress: Callable[[float], None] | None = None,
) -> int:
    """Forecast and write server_name, origin, timestamp, metric and one column per quantile.

    Args:
        forecaster: in evaluation mode.
        fleet: read with the forecaster's schema.
        origins: windows, in the order of the rows; none make a table without rows.
        path: `.parquet` or `.csv`; appears whole or not at all, and replaces what was there.
        quantiles: levels to write, among the schema's.
        progress: called with the fraction done.

    Returns:
        The number of rows.

    Raises:
        ValueError: the path or a quantile is not one that can be written, or a forecast is not
            finite; nothing is written then.
    """
    path, schema = Path(path), forecaster.schema
    check_output(path)
    columns = check_levels(quantiles, schema)
    names = [f"q{level:g}" for level in quantiles]
    store = WindowStore(fleet, schema, forecaster.quantiles.device, forecaster.facts.servers)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    rows = 0
    try:
        with closing(_Sink(temporary, path.suffix, _example(fleet, names, schema))) as sink:
            for start in range(0, len(origins.server), BATCH_SIZE):
                part = Origins(*(values[start : start + BATCH_SIZE] for values in origins))
                forecast = forecaster.forecast(store.gather(*part))[..., columns].cpu().numpy()
                _refuse_not_finite(fleet, part, forecast, schema)
                table = _rows(fleet, part, forecast, names, schema)
                sink.write(table)
                rows += len(table)
                if progress is not None:
                    progress((start + len(part.server)) / len(origins.server))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def check_output(path: Path, *inputs: Path, endings: Sequence[str] = FORMATS) -> None:
    """Refuse an output path before any work is done.

    Args:
        path: what would be written.
        inputs: files and folders that are read, none of which may change.
        endings: of names it may have.

    Raises:
        ValueError: its ending is no format, it cannot be written, or it is (in) an input.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file, such as {path / f'out{endings[0]}'}")
    if path.suffix not in endings:
        raise ValueError(f"{path}: expected a name ending in {' or '.join(endings)}")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: folder {path.parent} does not exist; create it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ValueError(f"{path}: folder {path.parent} cannot be written to; name another")
    for given in inputs:
        if path.resolve() == given.resolve():
            raise ValueError(f"{path} is read and would be replaced; name another file to write")
        if given.is_dir() and path.resolve().is_relative_to(given.resolve()):
            raise ValueError(
                f"{path} lies in {given}, which is read, so it would be part of the table next "
                "time; name a file in another folder"
            )


def parse_levels(text: str) -> tuple[float, ...]:
    """Read quantile levels, 0.1,0.5,0.9, and return them ascending.

    Raises:
        ValueError: one is no number between 0 and 1, or is given twice.
    """
    try:
        levels = tuple(float(level) for level in text.split(","))
    except ValueError:
        levels = ()
    if not levels or not all(0 < level < 1 for level in levels):
        raise ValueError(f"quantiles {text!r}: expected numbers between 0 and 1, such as 0.1,0.5")
    repeated = [level for level in levels if levels.count(level) > 1]
    if repeated:
        raise ValueError(f"quantiles {text!r}: {repeated[0]:g} is given twice; give it once")
    return tuple(sorted(levels))


def check_levels(levels: Sequence[float], schema: FeatureSchema) -> list[int]:
    """Return the places of quantile levels among the schema's.

    Raises:
        ValueError: the model was not trained on one.
    """
    return [_column_of(level, schema) for level in levels]


class _Sink:
    """A CSV or Parquet file written table by table."""

    def __init__(self, path: Path, suffix: str, example: pd.DataFrame) -> None:
        self.parquet = None
        if suffix == ".parquet":
            self.schema = pa.Schema.from_pandas(example, preserve_index=False)
            self.parquet = pq.ParquetWriter(path, self.schema)
        else:
            self.csv = open(path, "w", encoding="utf-8", newline="")  # noqa: SIM115
            example.head(0).to_csv(self.csv, index=False)

    def write(self, table: pd.DataFrame) -> None:
        if self.parquet is not None:
            self.parquet.write_table(pa.Table.from_pandas(table, self.schema, preserve_index=False))
        else:
            table.to_csv(self.csv, index=False, header=False, date_format="%Y-%m-%dT%H:%M:%SZ")

    def close(self) -> None:
        if self.parquet is not None:
            self.parquet.close()
        else:
            self.csv.close()


def _rows(
    fleet: Fleet, part: Origins, forecast: np.ndarray, names: list[str], schema: FeatureSchema
) -> pd.DataFrame:
    """Turn forecasts [B, H, M, Q] into rows ordered by window, time and metric."""
    B, H, M, _ = forecast.shape
    servers = np.array(fleet.servers, dtype=object)[part.server]
    steps = part.origin[:, None] + np.arange(H)
    return pd.DataFrame(
        {
            "server_name": np.repeat(servers, H * M),
            "origin": _utc(np.repeat(part.origin, H * M), schema),
            "timestamp": _utc(np.repeat(steps.ravel(), M), schema),
            "metric": np.tile(np.array(schema.target_names, dtype=object), B * H),
            **{name: forecast[..., q].ravel() for q, name in enumerate(names)},
        }
    )


def _example(fleet: Fleet, names: list[str], schema: FeatureSchema) -> pd.DataFrame:
    """Return rows that only show the columns and their types."""
    zeros = np.zeros((1, 1, len(schema.targets), len(names)), np.float32)
    return _rows(fleet, Origins(np.zeros(1, np.int64), np.zeros(1, np.int64)), zeros, names, schema)


def _utc(ticks: IntArray, schema: FeatureSchema) -> pd.Series:
    return pd.Series(pd.to_datetime(ticks * schema.step_seconds, unit="s", utc=True))


def _column_of(level: float, schema: FeatureSchema) -> int:
    for column, known in enumerate(schema.quantiles):
        if abs(known - level) < 1e-9:
            return column
    known_levels = ", ".join(f"{known:g}" for known in schema.quantiles)
    raise ValueError(f"quantile {level:g} was not trained; the model has {known_levels}")


def _read_lines(path: str | Path) -> pd.DataFrame:
    """Read the lines that are not empty, every field as text; the index is their numbers."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)  # pandas takes a third field for an index, or drops it
            every = [(reader.line_num, fields) for fields in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as CSV ({error})") from error
    lines = {number: fields for number, fields in every if any(map(str.strip, fields))}
    numbers = list(lines)
    header = [name.strip() for name in lines[numbers[0]]] if lines else []
    for column in ("server_name", "origin"):
        if header.count(column) != 1:
            raise ValueError(
                f"{path}: {'no' if column not in header else 'more than one'} column {column!r}; "
                f"expected server_name, origin, found {', '.join(header) or 'nothing'}"
            )
    if len(lines) == 1:
        raise ValueError(f"{path}: no line after the header; expected server_name, origin lines")
    for number, fields in lines.items():
        if len(fields) != len(header):
            raise ValueError(
                f"{path}, line {number}: expected {len(header)} fields, as in the header, found "
                f"{len(fields)}"
            )
    return pd.DataFrame(list(lines.values())[1:], index=numbers[1:], columns=header, dtype=str)


def _refuse(
    path: str | Path, table: pd.DataFrame, bad: npt.ArrayLike, column: str, expected: str
) -> None:
    """Raise for the first bad line."""
    rows = np.flatnonzero(np.asarray(bad, bool))
    if len(rows):
        several = f" ({len(rows)} lines are wrong so)" if len(rows) > 1 else ""
        raise ValueError(
            f"{path}, line {table.index[rows[0]]}, {column} {table[column].iloc[rows[0]]!r}: "
            f"expected {expected}{several}"
        )


def _refuse_not_finite(
    fleet: Fleet, part: Origins, forecast: np.ndarray, schema: FeatureSchema
) -> None:
    """Raise for the first forecast, [B, H, M, Q], that holds a number no file should hold."""
    windows, metrics = np.nonzero(~np.isfinite(forecast).all(axis=(1, 3)))
    if len(windows):
        raise ValueError(
            f"the forecast of server {fleet.servers[part.server[windows[0]]]}, metric "
            f"{schema.target_names[metrics[0]]} is not finite; its values are too large for "
            "float32: rescale the column"
        )
