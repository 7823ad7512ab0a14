"""Forecasts as a table: which origins, and rows out to a file, batch by batch.

B windows, H horizon steps, M targets, Q quantiles.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data.fleet import Fleet, IntArray
from data.windows import WindowStore
from tft.forecaster import Forecaster
from tft.schema import FeatureSchema

BATCH_SIZE = 256
FORMATS = (".parquet", ".csv")
EARLY_SECONDS = 30  # an origin so little before a tick means that tick, as in reading a table


class Origins(NamedTuple):
    """Windows to forecast."""

    server: IntArray  # [n] numbers in the fleet
    origin: IntArray  # [n] absolute ticks, the first to forecast


def latest_origins(fleet: Fleet, schema: FeatureSchema) -> Origins:
    """Return, for every server with a seen target, the tick after its last row."""
    everyone = Origins(np.arange(len(fleet.servers)), fleet.first_tick + fleet.lengths)
    known = np.flatnonzero(_has_history(fleet, everyone, schema))
    return Origins(known, everyone.origin[known])


def read_origins(path: str | Path, fleet: Fleet, schema: FeatureSchema) -> Origins:
    """Read a CSV with columns server_name and origin, the time of the first tick to forecast.

    Raises:
        ValueError: a column is missing, a line names no server of the table or no time, or there
            is no history before it; the message names file and line.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as CSV ({error})") from error
    for column in ("server_name", "origin"):
        if column not in table:
            raise ValueError(
                f"{path}: no column {column!r}; expected server_name, origin, found "
                f"{', '.join(table.columns)}"
            )
    if table.empty:
        raise ValueError(f"{path}: no line after the header; expected server_name, origin lines")
    numbers = {name: number for number, name in enumerate(fleet.servers)}
    server = table["server_name"].str.strip().map(numbers)
    _refuse(path, table, server.isna(), "server_name", "a server of the table")
    moment = pd.to_datetime(table["origin"], utc=True, errors="coerce", format="ISO8601")
    _refuse(path, table, moment.isna(), "origin", "a time such as 2026-01-05T12:00:00Z")
    seconds = (moment - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(seconds=1)
    early = min(EARLY_SECONDS, schema.step_seconds // 10)
    origin = ((seconds + early) // schema.step_seconds).to_numpy(np.int64)
    found = Origins(server.to_numpy(np.int64), origin)
    blind = pd.Series(~_has_history(fleet, found, schema))
    need = f"a time with a row of the server in the {schema.context_length} ticks before it"
    _refuse(path, table, blind, "origin", need)
    return found


def cold_starts(fleet: Fleet, origins: Origins, schema: FeatureSchema) -> list[str]:
    """Name the servers forecast from less history than any training window had."""
    history = origins.origin - fleet.first_tick[origins.server]
    short = np.unique(origins.server[history < schema.min_context_length])
    return [fleet.servers[number] for number in short]


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
        origins: windows, in the order of the rows.
        path: `.parquet` or `.csv`; appears whole or not at all, and replaces what was there.
        quantiles: levels to write, among the schema's.
        progress: called with the fraction done.

    Returns:
        The number of rows.

    Raises:
        ValueError: the path's ending or a quantile is not one that can be written.
    """
    path, schema = Path(path), forecaster.schema
    check_output(path)
    columns = [_column_of(level, schema) for level in quantiles]
    names = [f"q{level:g}" for level in quantiles]
    store = WindowStore(fleet, schema, forecaster.quantiles.device, forecaster.facts.servers)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    rows = 0
    sink = None
    try:
        for start in range(0, len(origins.server), BATCH_SIZE):
            part = Origins(*(values[start : start + BATCH_SIZE] for values in origins))
            forecast = forecaster.forecast(store.gather(*part))[..., columns].cpu().numpy()
            table = _rows(fleet, part, forecast, names, schema)
            sink = sink or _Sink(temporary, path.suffix, table)
            sink.write(table)
            rows += len(table)
            if progress is not None:
                progress((start + len(part.server)) / len(origins.server))
        if sink is None:
            raise ValueError("nothing to forecast: no server has a seen target in its last day")
        sink.close()
        os.replace(temporary, path)
    finally:
        if sink is not None:
            sink.close()
        temporary.unlink(missing_ok=True)
    return rows


def check_output(path: Path) -> None:
    """Refuse an output path before any work is done.

    Raises:
        ValueError: its ending is no format, or its folder does not exist.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: expected a name ending in {' or '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: folder {path.parent} does not exist; create it first")


def parse_levels(text: str) -> tuple[float, ...]:
    """Read quantile levels, 0.1,0.5,0.9.

    Raises:
        ValueError: one is no number between 0 and 1.
    """
    try:
        levels = tuple(float(level) for level in text.split(","))
    except ValueError:
        levels = ()
    if not levels or not all(0 < level < 1 for level in levels):
        raise ValueError(f"quantiles {text!r}: expected numbers between 0 and 1, such as 0.1,0.5")
    return levels


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


def _utc(ticks: IntArray, schema: FeatureSchema) -> pd.Series:
    return pd.Series(pd.to_datetime(ticks * schema.step_seconds, unit="s", utc=True))


def _column_of(level: float, schema: FeatureSchema) -> int:
    for column, known in enumerate(schema.quantiles):
        if abs(known - level) < 1e-9:
            return column
    known_levels = ", ".join(f"{known:g}" for known in schema.quantiles)
    raise ValueError(f"quantile {level:g} was not trained; the model has {known_levels}")


def _has_history(fleet: Fleet, origins: Origins, schema: FeatureSchema) -> np.ndarray:
    """Tell for each window whether a target was seen in its context, [n]."""
    seen = (~np.isnan(fleet.values[:, : len(schema.targets)])).any(1)
    total = np.concatenate([[0], np.cumsum(seen)])
    row = origins.origin - fleet.first_tick[origins.server]
    begin, length = fleet.offsets[origins.server], fleet.lengths[origins.server]
    stop = begin + row.clip(0, length)
    start = begin + (row - schema.context_length).clip(0, length)
    has: np.ndarray = total[stop] > total[start]
    return has


def _refuse(
    path: str | Path, table: pd.DataFrame, bad: pd.Series, column: str, expected: str
) -> None:
    """Raise for the first bad line."""
    if bad.any():
        row = int(np.flatnonzero(bad.to_numpy())[0])
        raise ValueError(
            f"{path}, line {row + 2}, {column} {table[column].iloc[row]!r}: expected {expected} "
            f"({int(bad.sum())} lines are wrong so)"
        )
